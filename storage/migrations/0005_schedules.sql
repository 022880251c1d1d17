-- When each schedule of a domain's file comes next. The host that owns the domain's first partition keeps it.

create table schedules (
  domain    text collate "C" not null,
  name      text collate "C" not null,
  cron      text not null,
  timezone  text not null,
  recipient text not null,
  catch_up  text not null,
  next_at   timestamptz not null,
  last_at   timestamptz,            -- when one was sent last
  primary key (domain, name)
) with (fillfactor = 50);

-- The schedules as the domain's code has them. One that is new, or comes at other times than before, begins with
-- the occurrence given; the others keep theirs.
create function keep_schedules(
  p_domain text, p_epoch bigint, p_name text[], p_cron text[], p_timezone text[], p_recipient text[],
  p_catch_up text[], p_next_at float8[]
) returns void language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, '{0}');
  delete from schedules where domain = p_domain and name <> all (p_name);
  insert into schedules as s (domain, name, cron, timezone, recipient, catch_up, next_at)
    select p_domain, g.name, g.cron, g.timezone, g.recipient, g.catch_up, to_timestamp(g.next_at)
    from unnest(p_name, p_cron, p_timezone, p_recipient, p_catch_up, p_next_at)
      as g(name, cron, timezone, recipient, catch_up, next_at)
    on conflict (domain, name) do update
      set recipient = excluded.recipient, catch_up = excluded.catch_up, cron = excluded.cron,
          timezone = excluded.timezone,
          next_at = case when (s.cron, s.timezone) = (excluded.cron, excluded.timezone) then s.next_at
                         else excluded.next_at end;
end $$;

-- Sends what is due of one schedule and says when it comes next; nothing when another owner has done so, or when it
-- is not due by Postgres' clock. The keys keep an occurrence from being sent twice.
create function fire_schedule(
  p_domain text, p_epoch bigint, p_name text, p_due float8, p_next_at float8, p_keys text[], p_window interval,
  p_tenant text, p_partition int, p_agent text, p_id uuid[], p_header text[], p_payload text
) returns setof mailbox language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, '{0}');
  update schedules
    set next_at = to_timestamp(p_next_at),
        last_at = case when cardinality(p_keys) > 0 then now() else last_at end
    where domain = p_domain and name = p_name and next_at = to_timestamp(p_due) and next_at <= now();
  if not found then
    return;
  end if;
  return query select * from accept_messages(
    p_keys, p_window,
    array_fill(p_domain, array[cardinality(p_keys)]), array_fill(p_tenant, array[cardinality(p_keys)]),
    array_fill(p_partition, array[cardinality(p_keys)]), array_fill(p_agent, array[cardinality(p_keys)]),
    array_fill(false, array[cardinality(p_keys)]), p_id, p_header,
    array_fill(p_payload, array[cardinality(p_keys)]));
end $$;

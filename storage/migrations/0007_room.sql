-- How much room mailboxes have for what comes from outside.

-- How many messages wait in a domain, counted by whoever asks when it matters. Worth nothing after a crash.
create unlogged table backlogs (
  domain     text collate "C" primary key,
  waiting    bigint not null,
  at_seq     bigint not null,          -- where mailbox_seq stood: no more were added than were numbered since
  counted_at timestamptz not null,
  took       interval not null
) with (fillfactor = 50);

-- How many messages wait in a domain, at the most: the last count and what was numbered since. Where that is above
-- p_enough they are counted anew, up to p_at_most, unless another one is at it or has just been: counting takes no more
-- than a fiftieth of the time.
create function messages_waiting(p_domain text, p_enough bigint, p_at_most bigint) returns bigint
language plpgsql as $$
declare
  known backlogs;
  began timestamptz := clock_timestamp();
  numbered bigint := (select last_value - (not is_called)::int from mailbox_seq);
  counted bigint;
begin
  select * into known from backlogs where domain = p_domain;
  counted := coalesce(known.waiting + numbered - known.at_seq, 0);
  if known.domain is not null and counted <= p_enough then
    return counted;
  end if;
  if began between known.counted_at and known.counted_at + 50 * known.took
     or not pg_try_advisory_xact_lock(hashtext('callboard.backlogs'), hashtext(p_domain)) then
    return counted;
  end if;
  select count(*) into counted from (select from mailbox where domain = p_domain limit p_at_most) m;
  insert into backlogs values (p_domain, counted, numbered, clock_timestamp(), clock_timestamp() - began)
    on conflict (domain) do update
    set waiting = excluded.waiting, at_seq = excluded.at_seq, counted_at = excluded.counted_at, took = excluded.took;
  return counted;
end $$;

-- How many more messages the domain may be given from outside (the first element), and then each of the agents, where
-- a mailbox is to have p_each at the most and the domain p_all. Mailboxes are looked at only when one could be full.
create function rooms(
  p_domain text, p_tenant text[], p_partition int[], p_agent text[], p_each bigint, p_all bigint, p_count bigint
) returns bigint[] language plpgsql as $$
declare
  waiting bigint := messages_waiting(p_domain, least(p_each, p_all) - p_count, p_all);
begin
  if waiting + p_count <= p_each then
    return array[p_all - waiting] || array_fill(p_each - waiting, array[cardinality(p_agent)]);
  end if;
  return array[p_all - waiting] || array(
    select p_each - (
      select count(*) from (
        select from mailbox m
        where m.domain = p_domain and m.tenant = a.tenant and m.partition = a.partition and m.agent = a.agent
        limit p_each) held)
    from unnest(p_tenant, p_partition, p_agent) with ordinality as a(tenant, partition, agent, n) order by a.n);
end $$;

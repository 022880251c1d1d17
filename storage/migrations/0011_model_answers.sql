-- Answers of models that gateways share, and find again after a restart. It is a cache: unlogged, so that no backup holds
-- it and nothing of it costs a write-ahead log; a crash of Postgres empties it.

create unlogged table model_answers (
  tenant     text collate "C" not null,
  key        bytea not null,               -- sha256 of the request
  revision   bytea not null,               -- sha256 of what the model was when it answered
  target     int not null,                 -- which of the model's targets has answered, from 0
  made_for   bytea,                        -- sha256 of the Idempotency-Key that it was made for
  body       bytea not null,               -- JSON, as clients get it
  size       bigint not null,              -- of the row, about
  stored_at  timestamptz not null default now(),
  holds_until timestamptz not null,        -- then it is given only where no upstream can be asked
  kept_until timestamptz not null,
  primary key (tenant, key)
) with (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
-- Numbers and base64, of which packing takes more time than it saves room.
alter table model_answers alter column body set storage external;
create index model_answers_stored on model_answers (stored_at);
create index model_answers_kept on model_answers (kept_until);

-- How much there is, so that nobody has to count; its one row is also what lets one writer in at a time.
create unlogged table model_answers_held (
  one     boolean primary key default true check (one),
  answers bigint not null,
  bytes   bigint not null
);

-- Also for who deletes some by hand, wherever their search path leads.
create function count_answers() returns trigger language plpgsql as $$
begin
  if tg_op = 'TRUNCATE' then
    update callboard.model_answers_held set answers = 0, bytes = 0;
  elsif tg_op = 'INSERT' then
    update callboard.model_answers_held h set answers = h.answers + n.answers, bytes = h.bytes + n.bytes
      from (select count(*) as answers, sum(size) as bytes from changed) n where n.answers > 0;
  else
    update callboard.model_answers_held h set answers = h.answers - n.answers, bytes = h.bytes - n.bytes
      from (select count(*) as answers, sum(size) as bytes from changed) n where n.answers > 0;
  end if;
  return null;
end $$;
create trigger model_answers_added after insert on model_answers
  referencing new table as changed for each statement execute function count_answers();
create trigger model_answers_gone after delete on model_answers
  referencing old table as changed for each statement execute function count_answers();
create trigger model_answers_emptied after truncate on model_answers
  for each statement execute function count_answers();

-- Delete up to p_limit answers whose time is over; return how many.
create function purge_answers(p_limit int) returns bigint language plpgsql as $$
declare
  gone bigint;
begin
  perform 1 from model_answers_held for update;
  delete from model_answers where ctid = any (array(
    select ctid from model_answers where kept_until <= now() order by kept_until limit p_limit));
  get diagnostics gone = row_count;
  return gone;
end $$;

-- Store answers, each key once, and make room for them: some of what is over goes, more than comes, and then the oldest,
-- up to p_limit of them. There are never more than p_answers and p_bytes, but for bounds that were lowered just now.
create function keep_answers(
  p_tenant text[], p_key bytea[], p_revision bytea[], p_target int[], p_made_for bytea[], p_body bytea[], p_size bigint[],
  p_holds interval, p_stays interval, p_answers bigint, p_bytes bigint, p_limit int
) returns void language plpgsql as $$
declare
  too_many bigint;
  too_large bigint;
  oldest record;
  gone tid[] := '{}';
begin
  insert into model_answers_held values (true, 0, 0) on conflict do nothing;
  perform purge_answers(100 + 2 * cardinality(p_key));
  delete from model_answers m using unnest(p_tenant, p_key) as n(tenant, key) where m.tenant = n.tenant and m.key = n.key;
  insert into model_answers (tenant, key, revision, target, made_for, body, size, holds_until, kept_until)
    select n.*, now() + p_holds, now() + p_holds + p_stays
    from unnest(p_tenant, p_key, p_revision, p_target, p_made_for, p_body, p_size) as n;
  select answers - p_answers, bytes - p_bytes into too_many, too_large from model_answers_held;
  if too_many > 0 or too_large > 0 then
    for oldest in select ctid as place, size from model_answers order by stored_at limit p_limit loop
      exit when too_many <= 0 and too_large <= 0;
      gone := gone || oldest.place;
      too_many := too_many - 1;
      too_large := too_large - oldest.size;
    end loop;
    delete from model_answers where ctid = any (gone);
  end if;
end $$;

-- Turns that wait: what they have recorded so far, and the promises they wait for.

-- A turn that has put something into its journal and has not ended. Its message has moved here from the mailbox,
-- where the agent's later messages wait.
create table turns (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  agent      text collate "C" not null,
  partition  int not null,
  seq        bigint not null,
  turn       uuid not null,                   -- of this opening: a message may be given up and tried again
  code       text not null,                   -- the digest of the domain's code that it began with
  waiting    boolean not null default false,  -- it holds no memory: every branch waits for a promise
  failures   smallint not null,
  trials     smallint not null,
  retry_at   timestamptz,
  last_error text,
  header     json not null,
  payload    json not null,
  began_at   double precision not null,       -- what its handler takes for now whenever it runs
  recorded   int not null default 0,          -- entries, promises and times put away so far: whoever adds some must know how many
  primary key (domain, tenant, agent)
) with (
  fillfactor = 50,  -- each flush writes the row anew: beside itself, and so out of the indexes
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
  vacuum_truncate = off
);
create index turns_to_run on turns (domain, partition, tenant, agent) where not waiting;  -- read page by page

-- One row is one recorded call: append-only, and kept as history when its turn has ended.
create table journal (
  domain  text collate "C" not null,
  tenant  text collate "C" not null,
  agent   text collate "C" not null,
  turn    uuid not null,
  number  int not null,          -- its place in the turn's journal
  key     text collate "C" not null,
  kind    text not null,
  name    text not null,         -- what was called or waited for: replay compares it
  ok      boolean not null,
  value   json not null,         -- what the handler was given: a result, or an error
  blob    text,                  -- the value is in blob storage under this digest
  took_ms real not null,
  at      timestamptz not null default now()
) partition by range (at);
create index journal_turn on journal (turn, number);  -- a turn's id is unique: its tenant need not be compared
create table journal_default partition of journal default;

-- What a turn waits for, or may. Whoever settles it (a reply, the clock, a person) does so once, and leaves a
-- wake-up in its owner's mailbox in the same transaction.
create table promises (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  id         uuid not null,
  agent      text collate "C" not null,   -- the owner
  partition  int not null,
  turn       uuid not null,
  key        text collate "C" not null,   -- its key in the owner's journal
  kind       text not null,               -- ask, sleep, promise, approval or outcome
  name       text not null,
  target     text collate "C",            -- whom an ask waits for: tenant's domain/kind/key
  message    uuid,                        -- what that one was sent
  gates      json,                        -- the gathers that may do without its answer; null: none
  given_up   boolean not null default false,  -- its branch has been given up: it holds nobody
  status     text not null default 'pending',
  due_at     timestamptz,                 -- then the clock settles it
  details    json,
  value      json,
  settled_by text,
  created_at timestamptz not null default now(),
  settled_at timestamptz,
  primary key (domain, tenant, id)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
  vacuum_truncate = off
);
-- The agent first: before the table's first statistics, one that begins with domain and tenant is taken for what looks a
-- promise up by its id, and read whole.
create index promises_owner on promises (agent, tenant, domain, turn);
create index promises_due on promises (domain, partition, due_at) where status = 'pending' and due_at is not null;

create or replace function ensure_transition_months(p_ahead int) returns void language plpgsql as $$
declare
  first date := date_trunc('month', now());
  month date;
  parent text;
  name text;
begin
  for i in 0 .. p_ahead loop
    month := (first + make_interval(months => i))::date;
    foreach parent in array array['transitions', 'journal'] loop
      name := parent || '_' || to_char(month, 'YYYYMM');
      if to_regclass(name) is null then
        execute format('create table %I partition of %I for values from (%L) to (%L)',
                       name, parent, month, (month + interval '1 month')::date);
      end if;
    end loop;
  end loop;
end $$;
select ensure_transition_months(3);

-- The journal's part of a group commit. Arrays of one prefix belong together: j_ the flushes, each of one turn and with
-- one entry or none (j_does: `open` its first, of which there are p_opens, `go` a later one, `resume` the first after it
-- had been put away, `park` puts it away, p_goes of these three, `end` its last, p_ends, and `none` belongs to no turn, or
-- to one whose row an earlier flush changes for both; j_recorded what the row must count and j_adds what is added to it,
-- j_parks true where it is put away in the end); c_ the wake-ups consumed. Where all flushes have the same, tenant, does,
-- adds, kind, name and ok may have one element: unnest pads the rest with null. What none has may be null as a whole, and
-- what only `open` needs (partition, seq) where nothing opens. Promises come as JSON. l_ are those that are there already:
-- l_done where nobody waits for it any more, l_given_up where its branch has been given up (true) or is waited for again
-- (false), and beside these all that this commit settles, so that they are locked in one order, that of settle_replies: or
-- two hosts would wait for each other. Rows are looked up one by one, as in commit_turns: as a join, each flush would be
-- compared with all the others'. Arrays are unnested in a select list, where their rows go nowhere else first, and none is
-- read by its places: one of text is walked from its beginning each time.
create function commit_journal(
  p_domain text, p_epoch bigint, p_partitions int[], p_code text, p_ends int, p_opens int, p_goes int,
  j_tenant text[], j_partition int[], j_agent text[], j_seq bigint[], j_turn uuid[], j_does text[],
  j_recorded int[], j_adds int[], j_parks boolean[], j_began_at float8[],
  j_number int[], j_key text[], j_kind text[], j_name text[], j_ok boolean[], j_value text[], j_blob text[],
  j_took_ms real[],
  c_tenant text[], c_partition int[], c_agent text[], c_seq bigint[],
  p_promises jsonb,
  l_domain text[], l_tenant text[], l_agent text[], l_id uuid[], l_done boolean[], l_given_up boolean[]
) returns void language plpgsql as $$
declare
  changed bigint;
  places_done tid[];
  places_given_up tid[];
  places_taken_up tid[];
begin
  perform require_fence(p_domain, p_epoch, p_partitions);

  -- An agent's next turn may open in the commit in which the one before it ends: ends come first.
  if p_ends > 0 then
    delete from turns where ctid = any (array(
      select (select t.ctid from turns t
              where t.domain = p_domain and t.tenant = coalesce(j.tenant, j_tenant[1]) and t.agent = j.agent
                and t.turn = j.turn and t.recorded = j.recorded)
      from (select unnest(j_tenant) as tenant, unnest(j_agent) as agent, unnest(j_turn) as turn, unnest(j_does) as does,
                   unnest(j_recorded) as recorded) j
      where coalesce(j.does, j_does[1]) = 'end'));
    get diagnostics changed = row_count;
    if changed <> p_ends then
      raise exception 'an open turn to be ended is gone, or others have recorded something in it'
        using errcode = 'CB002';
    end if;
  end if;

  if p_opens > 0 then
    with gone as (
      delete from mailbox m using (
        select j.turn, j.began_at, coalesce(j.adds, j_adds[1]) as adds, j.parks,
               (select k.ctid from mailbox k
                where k.domain = p_domain and k.tenant = coalesce(j.tenant, j_tenant[1]) and k.partition = j.partition
                  and k.agent = j.agent and k.seq = j.seq) as place
        from (select unnest(j_tenant) as tenant, unnest(j_partition) as partition, unnest(j_agent) as agent,
                     unnest(j_seq) as seq, unnest(j_turn) as turn, unnest(j_does) as does, unnest(j_began_at) as began_at,
                     unnest(j_adds) as adds, unnest(j_parks) as parks) j
        where coalesce(j.does, j_does[1]) = 'open' offset 0  -- keeps the look-up apart from the join
      ) o
      where m.ctid = o.place
      returning m.*, o.turn, o.began_at, o.adds, o.parks
    )
    insert into turns (domain, tenant, agent, partition, seq, turn, code, failures, trials, last_error, header, payload,
                       began_at, recorded, waiting)
      select domain, tenant, agent, partition, seq, turn, p_code, failures, case when parks is null then trials else 0 end,
             last_error, header, payload, began_at, adds, parks is not null
      from gone;
    get diagnostics changed = row_count;
    if changed <> p_opens then
      raise exception 'a message whose turn opens is gone' using errcode = 'CB002';
    end if;
  end if;

  if p_goes > 0 then
    -- A turn that makes progress, or has come to where it waits, is no poison, however many hosts have died in its life.
    update turns t
      set recorded = o.recorded + o.adds, waiting = o.parks is not null or (o.does = 'go' and t.waiting),
          trials = case when o.does = 'go' and o.parks is null then t.trials else 0 end,
          retry_at = case when o.does = 'resume' then null else t.retry_at end
      from (
        select coalesce(j.does, j_does[1]) as does, j.recorded, coalesce(j.adds, j_adds[1]) as adds, j.parks,
               (select k.ctid from turns k
                where k.domain = p_domain and k.tenant = coalesce(j.tenant, j_tenant[1]) and k.agent = j.agent
                  and k.turn = j.turn) as place
        from (select unnest(j_tenant) as tenant, unnest(j_agent) as agent, unnest(j_turn) as turn,
                     unnest(j_does) as does, unnest(j_recorded) as recorded, unnest(j_adds) as adds,
                     unnest(j_parks) as parks) j
        where coalesce(j.does, j_does[1]) in ('go', 'resume', 'park') offset 0
      ) o
      where t.ctid = o.place and t.recorded = o.recorded;
    get diagnostics changed = row_count;
    if changed <> p_goes then
      raise exception 'an open turn is gone, or others have recorded something in it' using errcode = 'CB002';
    end if;
  end if;

  if j_key is not null then
    -- Read from where the turn began: not before that, however much the clock has been set back meanwhile.
    insert into journal (domain, tenant, agent, turn, number, key, kind, name, ok, value, blob, took_ms, at)
      select p_domain, coalesce(j.tenant, j_tenant[1]), j.agent, j.turn, j.number, j.key, coalesce(j.kind, j_kind[1]),
             coalesce(j.name, j_name[1]), coalesce(j.ok, j_ok[1]), j.value::json, j.blob, j.took_ms,
             greatest(now(), to_timestamp(j.began_at))
      from (select unnest(j_tenant) as tenant, unnest(j_agent) as agent, unnest(j_turn) as turn,
                   unnest(j_began_at) as began_at, unnest(j_number) as number, unnest(j_key) as key,
                   unnest(j_kind) as kind, unnest(j_name) as name, unnest(j_ok) as ok, unnest(j_value) as value,
                   unnest(j_blob) as blob, unnest(j_took_ms) as took_ms) j
      where j.key is not null;
  end if;

  if c_seq is not null then
    delete from mailbox where ctid = any (array(
      select (select m.ctid from mailbox m
              where m.domain = p_domain and m.tenant = c.tenant and m.partition = c.partition
                and m.agent = c.agent and m.seq = c.seq)
      from (select unnest(c_tenant) as tenant, unnest(c_partition) as partition, unnest(c_agent) as agent,
                   unnest(c_seq) as seq) c));
    get diagnostics changed = row_count;
    if changed <> cardinality(c_seq) then
      raise exception '% of % wake-ups were there to consume', changed, cardinality(c_seq) using errcode = 'CB002';
    end if;
  end if;

  if p_promises is not null then
    insert into promises (domain, tenant, id, agent, partition, turn, key, kind, name, target, message, gates, due_at,
                          details)
      select p_domain, p.tenant, p.id, p.agent, p.partition, p.turn, p.key, p.kind, p.name, p.target, p.message,
             p.gates, to_timestamp(p.due_at), p.details::json
      from jsonb_to_recordset(p_promises)
        as p(tenant text, id uuid, agent text, partition int, turn uuid, key text, kind text, name text,
             target text, message uuid, gates json, due_at float8, details text);
  end if;

  if l_id is not null then
    -- Locked, so that nobody settles one meanwhile and moves it. By its agent as well: without statistics any index that has
    -- the domain and the tenant is as good as the one with the id.
    select array_agg(k.place) filter (where k.done), array_agg(k.place) filter (where k.given_up),
           array_agg(k.place) filter (where not k.given_up)
      into places_done, places_given_up, places_taken_up
    from (
      select l.done, l.given_up,
             (select p.ctid from promises p
              where p.domain = l.domain and p.tenant = l.tenant and p.agent = l.agent and p.id = l.id for update) as place
      from (select * from unnest(l_domain, l_tenant, l_agent, l_id, l_done, l_given_up)
                     as l(domain, tenant, agent, id, done, given_up)
            order by domain, tenant, id) l offset 0
    ) k;
    delete from promises where ctid = any (places_done) and kind in ('ask', 'sleep');
    update promises set status = 'abandoned', settled_at = now()
      where ctid = any (places_done) and status = 'pending' and kind not in ('ask', 'sleep');
    if l_given_up is not null then
      update promises set given_up = coalesce(ctid = any (places_given_up), false)
        where ctid = any (places_given_up || places_taken_up);
    end if;
  end if;
end $$;

-- The same for a group that is one `go` with its entry and nothing else, as that of a turn which runs alone: without arrays
-- it takes half the time.
create function commit_step(
  p_domain text, p_epoch bigint, p_partition int, p_tenant text, p_agent text, p_turn uuid, p_recorded int,
  p_began_at float8, p_number int, p_key text, p_kind text, p_name text, p_ok boolean, p_value text, p_blob text,
  p_took_ms real
) returns void language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, array[p_partition]);
  update turns set recorded = p_recorded + 1
    where domain = p_domain and tenant = p_tenant and agent = p_agent and turn = p_turn and recorded = p_recorded;
  if not found then
    raise exception 'an open turn is gone, or others have recorded something in it' using errcode = 'CB002';
  end if;
  insert into journal (domain, tenant, agent, turn, number, key, kind, name, ok, value, blob, took_ms, at)
    values (p_domain, p_tenant, p_agent, p_turn, p_number, p_key, p_kind, p_name, p_ok, p_value::json, p_blob, p_took_ms,
            greatest(now(), to_timestamp(p_began_at)));
end $$;

-- The open turns of a partition that have something to do, from a place on: p_limit at most, until they have p_bytes.
-- A row without a number says that the page ends there and the partition may not.
create function load_turns(
  p_domain text, p_partition int, p_tenant text, p_agent text, p_limit int, p_bytes bigint
) returns table (
  tenant text, agent text, seq bigint, failures smallint, trials smallint, retry_at float8, header text, payload text
) language plpgsql stable as $$
declare
  t record;
  count int := 0;
  room bigint := p_bytes;
begin
  for t in
    select o.tenant, o.agent, o.seq, o.failures, o.trials, extract(epoch from o.retry_at)::float8 as retry_at,
           o.header::text as header, o.payload::text as payload
    from turns o
    where o.domain = p_domain and o.partition = p_partition and not o.waiting
      and (o.tenant, o.agent) > (p_tenant, p_agent)
    order by o.tenant, o.agent limit p_limit
  loop
    tenant := t.tenant; agent := t.agent; seq := t.seq; failures := t.failures; trials := t.trials;
    retry_at := t.retry_at; header := t.header; payload := t.payload;
    return next;
    count := count + 1;
    room := room - octet_length(header) - octet_length(payload);
    exit when room <= 0;
  end loop;
  if room <= 0 or count >= p_limit then
    seq := null; header := null; payload := null;
    return next;
  end if;
end $$;

-- The states of these agents, in their order, until they have p_bytes: of those that have one, or whose first turn is
-- open. A row without a version says that the agents after the nth have not been looked at. By key, one by one: as a
-- join, it would read the whole table.
create function load_states(p_domain text, p_tenants text[], p_agents text[], p_bytes bigint)
returns table (
  n bigint, tenant text, agent text, version bigint, schema_version int, lifecycle text, state text, hash bytea, turn text
) language plpgsql stable as $$
declare
  room bigint := p_bytes;
begin
  for n, tenant, agent, version, schema_version, lifecycle, state, hash, turn in
    select k.n, k.tenant, k.agent, coalesce(s.version, 0), coalesce(s.schema_version, 0),
           coalesce(s.lifecycle, 'created'), s.state::text, coalesce(s.hash, decode(repeat('00', 32), 'hex')), t.turn
    from unnest(p_tenants, p_agents) with ordinality as k(tenant, agent, n)
    left join lateral (
      select * from agents a where a.domain = p_domain and a.tenant = k.tenant and a.agent = k.agent offset 0
    ) s on true
    left join lateral (
      select case when o.waiting then 'waiting' else 'open' end as turn
      from turns o where o.domain = p_domain and o.tenant = k.tenant and o.agent = k.agent offset 0
    ) t on true
    where s.version is not null or t.turn is not null
  loop
    return next;
    room := room - coalesce(octet_length(state), 0);
    if room <= 0 and n < cardinality(p_agents) then
      version := null; state := null;
      return next;
      return;
    end if;
  end loop;
end $$;

-- Puts the wake-ups of promises that have just been settled into their owners' mailboxes, ahead of the queue.
create function wake_owners(p_settled promises[]) returns setof mailbox language sql as $$
  insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
    select w.domain, w.tenant, w.partition, w.agent, nextval('mailbox_seq') - 4611686018427387904, w.wake,
           json_build_object('id', w.wake, 'type', 'callboard.wake.v1', 'sender', w.settled_by,
                             'sent_at', extract(epoch from now())::float8),
           json_build_object('promise', w.id, 'status', w.status, 'value', w.value, 'by', w.settled_by,
                             'at', extract(epoch from w.settled_at)::float8)
    from (select *, gen_random_uuid() as wake from unnest(p_settled)) w
  returning *
$$;

-- Settles promises of the owned partitions whose time has come, under the fence.
create function settle_due(p_domain text, p_epoch bigint, p_partitions int[], p_limit int)
returns setof mailbox language plpgsql as $$
declare
  settled promises[];
begin
  if not exists (select from promises where domain = p_domain and partition = any (p_partitions)
                 and status = 'pending' and due_at <= now()) then
    return;  -- as fire_timers does
  end if;
  perform require_fence(p_domain, p_epoch, p_partitions);
  with due as (
    select tenant, id from promises
    where domain = p_domain and partition = any (p_partitions) and status = 'pending' and due_at <= now()
    order by due_at, id limit p_limit for update skip locked
  ), done as (
    update promises p
      set status = case when p.kind = 'sleep' then 'resolved' else 'expired' end, settled_by = 'external/clock',
          settled_at = now()
      from due d where p.domain = p_domain and p.tenant = d.tenant and p.id = d.id
      returning p.*
  )
  select array_agg(done::promises order by due_at, id) into settled from done;
  if settled is null then
    return;
  end if;
  return query select * from wake_owners(settled);
end $$;

-- Whether somebody may decide so. A person: one of the approvers, or anybody where none are named or it is denied; a
-- person's name is no agent's address. An agent: one of the approvers, and neither the asker nor the one whose message
-- the asker handles.
create function may_decide(p promises, p_by text, p_status text) returns boolean language sql stable as $$
  select case when starts_with(p_by, 'external/')
    then json_array_length(p.details -> 'approvers') = 0
      or p_by not like 'external/%/%/%'
        and (p_status = 'denied' or (p.details -> 'approvers')::jsonb ? substr(p_by, 10))
    else (p.details -> 'approvers')::jsonb ? p_by and p_by <> p.domain || '/' || p.agent
      and not exists (select from turns t
                      where t.domain = p.domain and t.tenant = p.tenant and t.agent = p.agent and t.turn = p.turn
                        and t.header ->> 'sender' = p_by)
    end
$$;

-- Whether an approval is decided so: in time, by somebody who may, on what they have seen. A digest (or the beginning of
-- one) is that of it.
create function may_be_settled(p promises, p_status text, p_by text, p_digest text) returns boolean
language sql stable as $$
  select p_status in ('approved', 'denied') and (p.due_at is null or p.due_at > now()) and may_decide(p, p_by, p_status)
    and starts_with(p.details ->> 'digest', coalesce(p_digest, ''))
$$;

-- Settles one promise from outside, once: a promise or the outcome of a call is `resolved`, an approval `approved` or
-- `denied`. Returns its wake-up; none when it may not be settled so, or had been settled before.
create function settle_promise(
  p_domain text, p_tenant text, p_id uuid, p_status text, p_value text, p_by text, p_digest text
) returns setof mailbox language plpgsql as $$
declare
  settled promises[];
begin
  with done as (
    update promises p set status = p_status, value = p_value::json, settled_by = p_by, settled_at = now()
    where p.domain = p_domain and p.tenant = p_tenant and p.id = p_id and p.status = 'pending'
      and case when p.kind = 'approval' then may_be_settled(p, p_status, p_by, p_digest)
        else p_status = 'resolved' and p.kind in ('promise', 'outcome') and (p.due_at is null or p.due_at > now()) end
    returning p.*
  )
  select array_agg(done::promises) into settled from done;
  if settled is null then
    return;
  end if;
  return query select * from wake_owners(settled);
end $$;

-- The replies of a group commit, and the decisions of agents: settles the promises that are still open, and takes the
-- numbers of the others away.
create function settle_replies(
  p_numbers bigint[], o_tenant text[], o_domain text[], o_agent text[], o_settles uuid[], o_header text[],
  o_payload text[]
) returns bigint[] language plpgsql as $$
declare
  open_n bigint[];
  places tid[];
  settled bigint[];
begin
  -- Locked by a statement of its own: one that its owner writes meanwhile is found where it is then, which the snapshot of
  -- the same statement would not show.
  with replies as (
    select coalesce(o.domain, o_domain[1]) as domain, coalesce(o.tenant, o_tenant[1]) as tenant, o.settles, o.agent,
           o.header, o.payload, o.n
    from unnest(o_tenant, o_domain, o_agent, o_settles, o_header, o_payload)
      with ordinality as o(tenant, domain, agent, settles, header, payload, n)
    where o.settles is not null
    order by domain, tenant, settles, n
  ), may as (
    select r.n, (select p.ctid from promises p
                 where p.domain = r.domain and p.tenant = r.tenant and p.id = r.settles and p.agent = r.agent
                   and p.status = 'pending' and case when p.kind = 'approval'
                     then may_be_settled(p, r.payload::json ->> 'status', r.header::json ->> 'sender',
                                         r.payload::json ->> 'digest')
                     else p.kind in ('ask', 'promise') end
                 for update) as place
    from replies r offset 0
  ), still as (  -- of several that may, the first
    select distinct on (place) place, n from may where place is not null order by place, n
  )
  select array_agg(n), array_agg(place) into open_n, places from still;
  with done as (
    update promises p
      set status = o_payload[s.n]::json ->> 'status', settled_by = o_header[s.n]::json ->> 'sender', settled_at = now(),
          value = case when p.kind in ('ask', 'sleep') then null else o_payload[s.n]::json -> 'value' end
      from unnest(open_n, places) as s(n, place) where p.ctid = s.place
      returning s.n
  )
  select coalesce(array_agg(n), '{}') into settled from done;
  return (
    select array_agg(case when o.settles is null or o.n = any (settled) then o.number end order by o.n)
    from unnest(o_settles, p_numbers) with ordinality as o(settles, number, n));
end $$;

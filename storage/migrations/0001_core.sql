-- The durable core. Every table of agents is keyed by domain and tenant first, so that a domain can move
-- to a Postgres of its own. Text keys use the C collation: byte order, independent of the system's locale.

create table domains (
  domain      text collate "C" primary key,
  partitions  int not null check (partitions between 1 and 4096),
  hash        text not null default 'blake2b-64',  -- how an address falls into a partition; fixed with the count
  spec        json not null,                       -- domain.yaml as read
  kinds       text[] not null,                     -- the agent kinds that its code has
  home        text not null,                       -- the folder it was read from
  code        text not null,                       -- digest of the domain's code
  hosts       int not null default 0,              -- how many hosts the master wants it to have
  suspect     int[] not null default '{}',         -- partitions whose owner died, and that nobody owns yet
  state       text not null default 'active' check (state in ('active', 'asleep', 'removed', 'deleting')),
  asleep_after bigint,                             -- asleep: a message with a higher number wakes it...
  asleep_with bigint,                              -- ...or more of what waits, up to that number, than this...
  asleep_after_event bigint,                       -- ...or an event with a higher number
  refusal     text,                                -- why no host can be started with it, as a coordinator or a host has said
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now()
);

-- The code that a domain's hosts run, as a zip; the newest is the one that domains.code names.
create table domain_code (
  domain   text collate "C" not null,
  digest   text collate "C" not null,
  bundle   bytea not null,
  added_at timestamptz not null default now(),
  primary key (domain, digest)
);

-- One row is one incarnation of a host: the fence. `owned` is what it may write, `wanted` what the
-- coordinator would have it own, `suspect` what it took over from a dead host and has not cleared yet.
create sequence epochs;
create table hosts (
  domain     text collate "C" not null,
  epoch      bigint not null default nextval('epochs'),
  host       text not null,
  node       text not null,
  pid        int not null,
  machine    text not null default '',      -- which one it was, however Ray called its node; empty where that is not known
  born       text not null,                 -- which process of that number it is
  code       text not null,                 -- the digest of the domain's code that it runs
  release    text not null default '',      -- of Callboard
  schema     int not null default 0,        -- the newest migration that this release knows
  owned      int[] not null default '{}',
  wanted     int[] not null default '{}',
  kept       int[] not null default '{}',   -- asked back, and kept while calls are being made there
  suspect    int[] not null default '{}',
  taken      int[] not null default '{}',   -- how often each was taken from it, 0 first: it may be its own again when it looks
  stopped    bigint[] not null default '{}', -- the cancellations of which nothing runs on it any more
  draining   boolean not null default false,
  started_at timestamptz not null default now(),
  ready_at   timestamptz,
  ended_at   timestamptz,
  ended_why  text,
  primary key (domain, epoch)
) with (fillfactor = 50);
create index hosts_live on hosts (domain) where ended_at is null;

-- Beats are worth nothing after a crash, so they cost no WAL.
create unlogged table heartbeats (
  domain     text collate "C" not null,
  epoch      bigint not null,
  at         timestamptz not null default now(),
  lag_ms     real not null default 0,      -- how late the host's event loop is
  blocked_by text,                         -- the handler that blocks it
  backlog    bigint not null default 0,    -- messages cached and not handled
  agents     bigint not null default 0,    -- activations in memory
  turns      bigint not null default 0,    -- turns committed since the start
  rss_bytes  bigint not null default 0,
  primary key (domain, epoch)
) with (fillfactor = 50);

create table coordinators (
  name       text collate "C" primary key,  -- 'master' or a domain
  epoch      bigint not null,
  node       text not null,
  pid        int not null,
  started_at timestamptz not null default now(),
  release    text not null default '',
  schema     int not null default 0,
  rival      text,                          -- the node, in another Ray, of one that waits to take its place...
  rival_at   timestamptz,                   -- ...and when it said so last
  lack       json,                          -- the hosts that it cannot start for want of room, see storage/lack.py
  leased_at  timestamptz,                   -- it replaces hosts in a full cluster, and said so last then; one at a time
  urgent     boolean not null default false -- it has no host, and takes that from one that has some
) with (fillfactor = 50);

create sequence mailbox_seq;  -- cache 1 (the default): a sender's later commits get higher numbers
create table mailbox (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  partition  int not null,
  agent      text collate "C" not null,
  seq        bigint not null,               -- below zero: a control message, which passes the queue
  id         uuid not null,
  failures   smallint not null default 0,   -- times its handler failed
  trials     smallint not null default 0,   -- times it was started alone after its host had died
  retry_at   timestamptz,
  last_error text,
  header     json not null,
  payload    json not null,
  primary key (domain, tenant, partition, agent, seq)
) with (
  -- Every few seconds under full load; but a vacuum reads the whole index, so less often where much mail waits.
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
  vacuum_truncate = off  -- giving pages back takes a lock that stops every commit, and they are needed again
);

create table timers (
  domain    text collate "C" not null,
  tenant    text collate "C" not null,
  partition int not null,
  agent     text collate "C" not null,
  seq       bigint not null,
  due_at    timestamptz not null,
  control   boolean not null default false,  -- once due, it passes the queue
  id        uuid not null,
  header    json not null,
  payload   json not null,
  primary key (domain, tenant, seq)
);
create index timers_due on timers (domain, partition, due_at);

create table agents (
  domain         text collate "C" not null,
  tenant         text collate "C" not null,
  agent          text collate "C" not null,
  partition      int not null,
  version        bigint not null,
  schema_version int not null,
  lifecycle      text not null,
  state          json,
  hash           bytea not null,             -- of its newest transition
  updated_at     timestamptz not null default now(),
  primary key (domain, tenant, agent)
) with (
  fillfactor = 50,  -- room for the next versions beside the row: updates stay on the page and out of the index
  -- Pages prune themselves as they are updated; a vacuum every few seconds would read all agents for little.
  autovacuum_vacuum_scale_factor = 0.5, autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 50000,
  vacuum_truncate = off
);

create table transitions (
  domain  text collate "C" not null,
  tenant  text collate "C" not null,
  agent   text collate "C" not null,
  version bigint not null,
  at      timestamptz not null default now(),
  body    json not null,                     -- canonical bytes, stored verbatim: the hash covers them
  prev    bytea not null,
  hash    bytea not null,                    -- sha256(prev || body)
  task    text collate "C"                   -- of which its message is a part, as the body has it: for the index
) partition by range (at);
create index transitions_agent on transitions (domain, tenant, agent, version);
create index transitions_task on transitions (tenant, task, at) where task is not null;
create table transitions_default partition of transitions default;

create table dead_letters (
  domain    text collate "C" not null,
  tenant    text collate "C" not null,
  id        bigint generated always as identity,
  partition int not null,
  agent     text collate "C" not null,
  message   uuid not null,
  at        timestamptz not null default now(),
  reason    text not null,
  error     text not null,
  failures  int not null,
  frames    text not null default '',       -- `file:line in function`, where a handler failed: a line each
  header    json not null,
  payload   json not null,
  primary key (domain, tenant, id)
);
create index dead_letters_task on dead_letters ((header ->> 'task')) where header ->> 'task' is not null;

-- Keys seen lately from outside: an event's or a request's. A key seen again is not accepted again.
create table seen (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  key        text collate "C" not null,
  expires_at timestamptz not null,
  primary key (domain, tenant, key)
);
create index seen_expiry on seen (expires_at);

create table blobs (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  digest     text collate "C" not null,      -- sha256, hex
  bytes      bytea not null,
  touched_at timestamptz not null default now(),
  primary key (domain, tenant, digest)
);

create table tasks (
  domain      text collate "C" not null,
  tenant      text collate "C" not null,
  id          uuid not null,
  status      text not null,
  goal        text not null,
  input       json not null,
  priority    smallint not null check (priority between 0 and 10),
  policy      text,
  assignee    text,
  progress    real not null default 0,
  result      json,
  error       json,
  deadline    timestamptz,
  request_key text,
  parent      text collate "C",          -- the task (domain/id) that has started it, if one has
  root        text collate "C",          -- and the one that nobody has started, at the top of these
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  finished_at timestamptz,
  primary key (domain, tenant, id)
);
create unique index tasks_request on tasks (domain, tenant, request_key) where request_key is not null;
create index tasks_waiting on tasks (domain, priority desc, created_at) where status = 'submitted';
create index tasks_waiting_children on tasks (domain, priority desc, created_at)
  where status = 'submitted' and parent is not null;
create index tasks_children on tasks (tenant, parent, id) where parent is not null;
create index tasks_open on tasks (domain, tenant, assignee) where finished_at is null;

create table task_events (
  domain text collate "C" not null,
  tenant text collate "C" not null,
  task   uuid not null,
  number int not null,
  at     timestamptz not null default now(),
  kind   text not null,
  body   json not null,
  primary key (domain, tenant, task, number)
);

-- Tasks that were cancelled, written by their own agents. Every host reads them: it begins nothing more that is part
-- of one, ends what runs, and says so in its row. `ended_at` is when nothing of it was left anywhere.
create table cancellations (
  domain    text collate "C" not null,       -- of the task
  tenant    text collate "C" not null,
  task      uuid not null,
  number    bigint generated always as identity unique,
  partition int not null,                    -- of the task's agent, whose owner ends it
  why       text not null,
  at        timestamptz not null default now(),
  ended_at  timestamptz,
  primary key (domain, tenant, task)
);
create index cancellations_open on cancellations (number) where ended_at is null;

create function ensure_transition_months(p_ahead int) returns void language plpgsql as $$
declare
  first date := date_trunc('month', now());
  month date;
  name text;
begin
  for i in 0 .. p_ahead loop
    month := (first + make_interval(months => i))::date;
    name := 'transitions_' || to_char(month, 'YYYYMM');
    if to_regclass(name) is null then
      execute format('create table %I partition of transitions for values from (%L) to (%L)',
                     name, month, (month + interval '1 month')::date);
    end if;
  end loop;
end $$;
select ensure_transition_months(3);

-- Where the consumer of events from outside stands in JetStream's stream. `incarnation` tells one stream from
-- another one of the same name that was made later, and from itself before it lost its tail; `at_ns` is when the
-- stream took the event at `seq`, by which a number that was given twice is known (0: not known).
create table event_cursors (
  domain      text collate "C" primary key,
  incarnation text not null,
  seq         bigint not null,
  at_ns       bigint not null default 0
) with (fillfactor = 50);

-- What waits for a domain without hosts: messages with higher numbers than this, and how many up to it, tasks among them:
-- one more is one that was not committed when they were counted. Both in one reading of all its mail.
create function waits_for_sleeper(p_domain text, p_number bigint, out newer bigint, out upto bigint) language sql stable as $$
  select count(*) filter (where number > p_number),
         count(*) filter (where number <= p_number)
           + (select count(*) from tasks where domain = p_domain and status = 'submitted')
  from (select seq + case when seq < 0 then 4611686018427387904 else 0 end as number  -- below zero: it passes its queue
        from mailbox where domain = p_domain) m
$$;

-- The fence: a share lock on the incarnation's row, which every change of ownership must update.
create function require_fence(p_domain text, p_epoch bigint, p_partitions int[]) returns void
language plpgsql as $$
begin
  perform 1 from hosts
    where domain = p_domain and epoch = p_epoch and ended_at is null and owned @> p_partitions
    for share;
  if not found then
    raise exception 'epoch % of % no longer owns all of %', p_epoch, p_domain, p_partitions using errcode = 'CB001';
  end if;
end $$;

-- A partition that leaves its host before its first messages were tried alone stays suspect: whoever gets it next
-- tries them. The domain's row is locked before the host's, as the coordinator locks them, and only where there are such:
-- the host's row tells when it is written, for it may have been given one again meanwhile. p_attempts are those that end
-- with it there: nothing has died of them, so they do not count.
create function release_partitions(p_domain text, p_epoch bigint, p_partitions int[], p_attempts jsonb) returns void
language plpgsql as $$
declare
  untried int[];
begin
  update hosts set owned = array(select p from unnest(owned) p where p <> all (p_partitions) order by p)
    where domain = p_domain and epoch = p_epoch and ended_at is null and not suspect && p_partitions;
  if found then
    return;
  end if;
  perform 1 from domains where domain = p_domain for update;
  select array(select p from unnest(suspect) p where p = any (p_partitions)) into untried
    from hosts where domain = p_domain and epoch = p_epoch and ended_at is null for update;
  update domains set suspect = array(select distinct p from unnest(suspect || untried) p order by p)
    where domain = p_domain;
  update hosts set owned = array(select p from unnest(owned) p where p <> all (p_partitions) order by p),
                   suspect = array(select p from unnest(suspect) p where p <> all (p_partitions) order by p)
    where domain = p_domain and epoch = p_epoch and ended_at is null;
  if found then
    update mailbox m set trials = greatest(m.trials - 1, 0)
      from jsonb_to_recordset(p_attempts) as a(tenant text, partition int, agent text, seq bigint)
      where m.domain = p_domain and m.tenant = a.tenant and m.partition = a.partition and m.agent = a.agent
        and m.seq = a.seq;
    update turns t set trials = greatest(t.trials - 1, 0)
      from jsonb_to_recordset(p_attempts) as a(tenant text, agent text, seq bigint)
      where t.domain = p_domain and t.tenant = a.tenant and t.agent = a.agent and t.seq = a.seq;
  end if;
end $$;

-- The group commit: one call, one round trip, all or nothing. Arrays of one prefix belong together: t_ the turns
-- (t_seq is null where nothing is consumed; t_task may be empty), s_ the states (folded: s_turn is the place of its agent's last turn),
-- o_ the outgoing messages in send order (o_settles is the promise that a reply settles: it becomes a wake-up of
-- the promise's owner if it is the first, and nothing otherwise). Where all elements are the same, tenant, schema,
-- lifecycle, domain, control and settles may have one element: unnest pads the rest with null.
-- What is seldom needed comes as JSON in p_rare. Returns the numbers of the outgoing messages, in their order, as
-- their mailboxes have them: those of control messages are below zero, and a reply that came too late has none.
create function commit_turns(
  p_domain text, p_epoch bigint, p_partitions int[],
  t_tenant text[], t_partition int[], t_agent text[], t_seq bigint[], t_version bigint[], t_body text[],
  t_prev bytea[], t_hash bytea[],
  s_turn int[], s_from bigint[], s_schema int[], s_lifecycle text[], s_state text[],
  o_tenant text[], o_domain text[], o_partition int[], o_agent text[], o_control boolean[], o_settles uuid[],
  o_id uuid[], o_header text[], o_payload text[],
  p_rare jsonb, t_task text[]
) returns bigint[] language plpgsql as $$
declare
  c_seq bigint[] := array_remove(t_seq, null);
  changed bigint;
  updated bigint;
  numbers bigint[];
begin
  perform require_fence(p_domain, p_epoch, p_partitions);
  if cardinality(t_agent) > 0 then
    if cardinality(t_tenant) = 1 then
      t_tenant := array_fill(t_tenant[1], array[cardinality(t_agent)]);
    end if;

    -- Rows are looked up one by one and written by their place. As a join, the plan depends on statistics, which
    -- lag behind tables that fill and empty a thousand times a second: it then reads all of the domain's mail.
    delete from mailbox where ctid = any (array(
      select (select m.ctid from mailbox m
              where m.domain = p_domain and m.tenant = t.tenant and m.partition = t.partition
                and m.agent = t.agent and m.seq = t.seq)
      from unnest(t_tenant, t_partition, t_agent, t_seq) as t(tenant, partition, agent, seq)
      where t.seq is not null));
    get diagnostics changed = row_count;
    if changed <> cardinality(c_seq) then
      raise exception '% of % messages were there to consume', changed, cardinality(c_seq) using errcode = 'CB002';
    end if;

    update agents a
      set version = t_version[s.turn], schema_version = coalesce(s.schema, s_schema[1]),
          lifecycle = coalesce(s.lifecycle, s_lifecycle[1]), state = s.state::json, hash = t_hash[s.turn],
          updated_at = now()
      from (
        select u.*, (select k.ctid from agents k
                     where k.domain = p_domain and k.tenant = t_tenant[u.turn] and k.agent = t_agent[u.turn]) as place
        from unnest(s_turn, s_from, s_schema, s_lifecycle, s_state) as u(turn, since, schema, lifecycle, state)
        where u.since > 0 offset 0  -- keeps the look-up apart from the join
      ) s
      where a.ctid = s.place and a.version = s.since;
    get diagnostics updated = row_count;
    if updated < cardinality(s_turn) then
      insert into agents (domain, tenant, agent, partition, version, schema_version, lifecycle, state, hash)
        select p_domain, t_tenant[s.turn], t_agent[s.turn], t_partition[s.turn], t_version[s.turn],
               coalesce(s.schema, s_schema[1]), coalesce(s.lifecycle, s_lifecycle[1]), s.state::json, t_hash[s.turn]
        from unnest(s_turn, s_from, s_schema, s_lifecycle, s_state) as s(turn, since, schema, lifecycle, state)
        where s.since = 0
        on conflict do nothing;
      get diagnostics changed = row_count;
      if updated + changed <> cardinality(s_turn) then
        raise exception '% of % states were at the expected version', updated + changed, cardinality(s_turn)
          using errcode = 'CB002';
      end if;
    end if;

    insert into transitions (domain, tenant, agent, version, body, prev, hash, task)
      select p_domain, t.tenant, t.agent, t.version, t.body::json, t.prev, t.hash, t.task
      from unnest(t_tenant, t_agent, t_version, t_body, t_prev, t_hash, t_task)
        as t(tenant, agent, version, body, prev, hash, task);
  end if;

  if cardinality(o_id) > 0 then
    select array_agg(nextval('mailbox_seq') - case when coalesce(o_control[n], o_control[1])
                                                   then 4611686018427387904 else 0 end)
      into numbers from generate_series(1, cardinality(o_id)) as n;
    if cardinality(array_remove(o_settles, null)) > 0 then
      numbers := settle_replies(numbers, o_tenant, o_domain, o_agent, o_settles, o_header, o_payload);
    end if;
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select coalesce(o.domain, o_domain[1]), coalesce(o.tenant, o_tenant[1]), o.partition, o.agent, o.seq,
             o.id, o.header::json, o.payload::json
      from unnest(o_tenant, o_domain, o_partition, o_agent, o_id, o_header, o_payload, numbers)
        as o(tenant, domain, partition, agent, id, header, payload, seq)
      where o.seq is not null;
  end if;

  if p_rare is not null then
    perform commit_rare(p_domain, p_rare);
  end if;
  return numbers;
end $$;

-- Marks on messages and open turns, dead letters, timers, tasks and their cancellations, under the fence of the calling function.
create function commit_rare(p_domain text, p_rare jsonb) returns void language plpgsql as $$
declare
  changed bigint;
  marked bigint;
begin
  update mailbox m
    set failures = m.failures + r.failed, trials = m.trials + r.tried,
        retry_at = case when r.delay_s is null then null else now() + make_interval(secs => r.delay_s) end,
        last_error = coalesce(r.error, m.last_error)
    from (
      select j.*, (select k.ctid from mailbox k
                   where k.domain = p_domain and k.tenant = j.tenant and k.partition = j.partition
                     and k.agent = j.agent and k.seq = j.seq) as place
      from jsonb_to_recordset(p_rare -> 'marks')
        as j(tenant text, partition int, agent text, seq bigint, failed int, tried int, delay_s float8, error text,
             open boolean)
      where not j.open offset 0
    ) r
    where m.ctid = r.place;
  get diagnostics changed = row_count;
  update turns t
    set failures = t.failures + r.failed, trials = t.trials + r.tried,
        retry_at = case when r.delay_s is null then null else now() + make_interval(secs => r.delay_s) end,
        last_error = coalesce(r.error, t.last_error), waiting = false
    from jsonb_to_recordset(p_rare -> 'marks')
      as r(tenant text, agent text, seq bigint, failed int, tried int, delay_s float8, error text, open boolean)
    where r.open and t.domain = p_domain and t.tenant = r.tenant and t.agent = r.agent and t.seq = r.seq;
  get diagnostics marked = row_count;
  changed := changed + marked;
  if changed <> coalesce(jsonb_array_length(p_rare -> 'marks'), 0) then
    raise exception 'a message to be marked is gone' using errcode = 'CB002';
  end if;

  insert into dead_letters (domain, tenant, partition, agent, message, reason, error, failures, frames, header, payload)
    select p_domain, d.tenant, d.partition, d.agent, d.message, d.reason, d.error, d.failures, coalesce(d.frames, ''),
           d.header::json, d.payload::json
    from jsonb_to_recordset(p_rare -> 'dead')
      as d(tenant text, partition int, agent text, message uuid, reason text, error text, failures int,
           frames text, header text, payload text);

  delete from dead_letters x using jsonb_to_recordset(p_rare -> 'undead') as d(tenant text, id bigint)
    where x.domain = p_domain and x.tenant = d.tenant and x.id = d.id;
  get diagnostics changed = row_count;
  if changed <> coalesce(jsonb_array_length(p_rare -> 'undead'), 0) then
    raise exception 'a dead letter to be taken back is gone' using errcode = 'CB002';
  end if;

  if jsonb_array_length(p_rare -> 'accepts') > 0 then
    perform from (
      select array_agg(e.key) as keys, array_agg(e.domain) as domains, array_agg(e.tenant) as tenants,
             array_agg(e.partition) as partitions, array_agg(e.agent) as agents, array_agg(false) as control,
             array_agg(e.id) as ids, array_agg(e.header) as headers, array_agg(e.payload) as payloads
      from jsonb_to_recordset(p_rare -> 'accepts')
        as e(key text, domain text, tenant text, partition int, agent text, id uuid, header text, payload text)
    ) a, lateral accept_messages(
      a.keys, make_interval(secs => (p_rare ->> 'seen_s')::float8), a.domains, a.tenants, a.partitions, a.agents, a.control,
      a.ids, a.headers, a.payloads);
  end if;

  insert into timers (domain, tenant, partition, agent, seq, due_at, control, id, header, payload)
    select t.domain, t.tenant, t.partition, t.agent, nextval('mailbox_seq'), to_timestamp(t.due_at), t.control, t.id,
           t.header::json, t.payload::json
    from jsonb_to_recordset(p_rare -> 'timers')
      as t(domain text, tenant text, partition int, agent text, due_at float8, control boolean, id uuid,
           header text, payload text);

  insert into tasks (domain, tenant, id, status, goal, input, priority, policy, deadline, parent, root)
    select p_domain, t.tenant, t.id, 'submitted', t.goal, t.input::json, t.priority, t.policy,
           to_timestamp(t.deadline), t.parent, t.root
    from jsonb_to_recordset(p_rare -> 'new_tasks')
      as t(tenant text, id uuid, goal text, input text, priority smallint, policy text, deadline float8, parent text,
           root text)
    on conflict do nothing;

  update tasks x
    set status = t.status, assignee = t.assignee, progress = t.progress, result = t.result::json,
        error = t.error::json, updated_at = now(),
        finished_at = case when t.finished then coalesce(x.finished_at, now()) end
    from jsonb_to_recordset(p_rare -> 'tasks')
      as t(tenant text, id uuid, status text, assignee text, progress real, result text, error text,
           finished boolean)
    where x.domain = p_domain and x.tenant = t.tenant and x.id = t.id;

  insert into task_events (domain, tenant, task, number, kind, body)
    select p_domain, e.tenant, e.task, e.number, e.kind, e.body::json
    from jsonb_to_recordset(p_rare -> 'task_events')
      as e(tenant text, task uuid, number int, kind text, body text);

  insert into cancellations (domain, tenant, task, partition, why)
    select p_domain, c.tenant, c.task, c.partition, c.why
    from jsonb_to_recordset(p_rare -> 'cancels') as c(tenant text, task uuid, partition int, why text)
    on conflict do nothing;

  if jsonb_array_length(p_rare -> 'pauses') > 0 then
    perform write_pauses(p_domain, p_rare -> 'pauses');
  end if;
end $$;

-- Moves due timers of the owned partitions into the mailboxes, under the fence.
create function fire_timers(p_domain text, p_epoch bigint, p_partitions int[], p_limit int)
returns setof mailbox language plpgsql as $$
begin
  -- Ten times a second nothing is due; the fence alone would be a commit that waits for the disk.
  if not exists (select from timers
                 where domain = p_domain and partition = any (p_partitions) and due_at <= now()) then
    return;
  end if;
  perform require_fence(p_domain, p_epoch, p_partitions);
  return query
    with due as (
      delete from timers t using (
        select tenant, seq from timers
        where domain = p_domain and partition = any (p_partitions) and due_at <= now()
        order by due_at, seq limit p_limit
      ) d
      where t.domain = p_domain and t.tenant = d.tenant and t.seq = d.seq
      returning t.*
    ), ordered as (select * from due order by due_at, seq)
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select domain, tenant, partition, agent,
             nextval('mailbox_seq') - case when control then 4611686018427387904 else 0 end, id, header, payload
      from ordered
      returning *;
end $$;

-- Whether an agent gets only what passes its queue: it is paused, or one of its turns is open.
create function is_closed(p_domain text, p_tenant text, p_agent text) returns boolean language plpgsql stable as $$
begin
  return exists (select from agents where domain = p_domain and tenant = p_tenant and agent = p_agent
                   and lifecycle = 'paused')
    or exists (select from turns where domain = p_domain and tenant = p_tenant and agent = p_agent);
end $$;

-- The first messages of one mailbox, at most p_each, until they have p_bytes together; one at the least. In the last
-- row `more` says whether that cut them short. p_below is a bound that the index can use: of a paused agent's
-- million messages only those below zero are looked at.
create function first_mail(
  p_domain text, p_tenant text, p_partition int, p_agent text, p_below bigint, p_each int, p_bytes bigint
) returns table (seq bigint, failures smallint, trials smallint, retry_at float8, header text, payload text, more boolean)
language plpgsql stable as $$
declare
  m record;
  count int := 0;
  room bigint := p_bytes;
begin
  for m in
    select x.seq, x.failures, x.trials, extract(epoch from x.retry_at)::float8 as retry_at,
           x.header::text as header, x.payload::text as payload
    from mailbox x
    where x.domain = p_domain and x.tenant = p_tenant and x.partition = p_partition and x.agent = p_agent
      and x.seq < p_below
    order by x.seq limit p_each
  loop
    count := count + 1;
    room := room - octet_length(m.header) - octet_length(m.payload);
    seq := m.seq; failures := m.failures; trials := m.trials; retry_at := m.retry_at;
    header := m.header; payload := m.payload; more := count >= p_each or room <= 0;
    return next;
    exit when room <= 0;
  end loop;
end $$;

-- One page of a partition's mailboxes: the first messages of each of the next agents after p_after, agent by agent,
-- until the page has p_bytes; of a paused agent only its control messages. With p_each_bytes = 0 there is one message
-- of each agent, without its payload. A row without a number says that the page ends there and the partition may not.
create function load_mail(
  p_domain text, p_tenant text, p_partition int, p_after text, p_agents int, p_each int, p_each_bytes bigint,
  p_bytes bigint
) returns table (
  agent text, seq bigint, failures smallint, trials smallint, retry_at float8, header text, payload text, more boolean
) language plpgsql stable as $$
declare
  m record;
  below bigint;
  room bigint := p_bytes;
begin
  agent := p_after;
  for i in 1 .. p_agents loop
    agent := (select x.agent from mailbox x
              where x.domain = p_domain and x.tenant = p_tenant and x.partition = p_partition
                and x.agent > load_mail.agent
              order by x.agent limit 1);
    if agent is null then
      return;
    end if;
    below := case when is_closed(p_domain, p_tenant, agent)
                  then 0 else 9223372036854775807 end;
    if p_each_bytes = 0 then
      select x.seq, x.failures, x.trials, extract(epoch from x.retry_at)::float8, x.header::text, '', true
        into seq, failures, trials, retry_at, header, payload, more
        from mailbox x
        where x.domain = p_domain and x.tenant = p_tenant and x.partition = p_partition
          and x.agent = load_mail.agent and x.seq < below
        order by x.seq limit 1;
      if found then
        room := room - octet_length(header);
        return next;
      end if;
    else
      for m in
        select * from first_mail(p_domain, p_tenant, p_partition, agent, below, p_each, p_each_bytes)
      loop
        seq := m.seq; failures := m.failures; trials := m.trials; retry_at := m.retry_at;
        header := m.header; payload := m.payload; more := m.more;
        room := room - octet_length(header) - octet_length(payload);
        return next;
      end loop;
    end if;
    exit when room <= 0;
  end loop;
  seq := null; header := null; payload := null;
  return next;
end $$;

-- The first message of each agent that has mail in one of the partitions, from a place on; of a paused agent only a
-- control message. It looks at p_limit agents and partitions at most; a row without a number says where to go on.
-- Each step is one probe of the index, and partitions without mail cost none.
create function mail_heads(
  p_domain text, p_tenant text, p_partition int, p_agent text, p_partitions int[], p_limit int
) returns table (tenant text, partition int, agent text, seq bigint) language plpgsql stable as $$
begin
  tenant := p_tenant; partition := p_partition; agent := p_agent;
  for i in 1 .. p_limit loop
    select x.tenant, x.partition, x.agent, x.seq into tenant, partition, agent, seq from mailbox x
      where x.domain = p_domain
        and (x.tenant, x.partition, x.agent) > (mail_heads.tenant, mail_heads.partition, mail_heads.agent)
      order by x.tenant, x.partition, x.agent, x.seq limit 1;
    if not found then
      return;
    elsif partition <> all (p_partitions) then
      partition := partition + 1; agent := '';
    elsif seq < 0 or not is_closed(p_domain, tenant, agent) then
      return next;
    end if;
  end loop;
  seq := null;
  return next;
end $$;

-- Accepts messages from outside, once per key. Returns the mailbox rows made; a key seen before makes none.
create function accept_messages(
  p_keys text[], p_window interval,
  o_domain text[], o_tenant text[], o_partition int[], o_agent text[], o_control boolean[], o_id uuid[],
  o_header text[], o_payload text[]
) returns setof mailbox language sql as $$
  with given as (
    select * from unnest(p_keys, o_domain, o_tenant, o_partition, o_agent, o_control, o_id, o_header, o_payload)
      with ordinality as o(key, domain, tenant, partition, agent, control, id, header, payload, n)
  ), fresh as (
    insert into seen (domain, tenant, key, expires_at)
      select distinct on (domain, tenant, key) domain, tenant, key, now() + p_window
      from given where key is not null order by domain, tenant, key
      on conflict (domain, tenant, key) do update set expires_at = excluded.expires_at
        where seen.expires_at < now()
      returning domain, tenant, key
  ), chosen as (
    select distinct on (g.domain, g.tenant, coalesce(g.key, g.n::text), g.key is null) g.*
    from given g left join fresh f using (domain, tenant, key)
    where g.key is null or f.key is not null
    order by g.domain, g.tenant, coalesce(g.key, g.n::text), g.key is null, g.n
  ), ordered as (select * from chosen order by n)
  insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
    select domain, tenant, partition, agent,
           case when control then nextval('mailbox_seq') - 4611686018427387904 else nextval('mailbox_seq') end,
           id, header::json, payload::json
    from ordered returning *;
$$;

-- Accepts events under the fence of the host that owns the first partition, together with the place in the
-- stream that has then been read. Events that no agent can be given are dead letters of `events/<name>`, once per key:
-- a commit whose outcome was unknown may still be under way when they are read again.
create function accept_events(
  p_domain text, p_epoch bigint, p_incarnation text, p_upto bigint, p_at_ns bigint, p_keys text[], p_window interval,
  o_domain text[], o_tenant text[], o_partition int[], o_agent text[], o_control boolean[], o_id uuid[],
  o_header text[], o_payload text[], p_dead jsonb
) returns setof mailbox language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, array[0]);
  insert into event_cursors (domain, incarnation, seq, at_ns) values (p_domain, p_incarnation, p_upto, p_at_ns)
    on conflict (domain) do update set incarnation = excluded.incarnation, seq = excluded.seq, at_ns = excluded.at_ns
    where event_cursors.incarnation <> excluded.incarnation or event_cursors.seq < excluded.seq;
  if not found then
    raise exception 'events up to % were accepted before', p_upto using errcode = 'CB002';
  end if;
  if jsonb_array_length(p_dead -> 'dead') > 0 then
    with fresh as (
      insert into seen (domain, tenant, key, expires_at)
        select distinct on (d.tenant, d.key) p_domain, d.tenant, d.key, now() + p_window
        from jsonb_to_recordset(p_dead -> 'dead') as d(tenant text, key text) order by d.tenant, d.key
        on conflict (domain, tenant, key) do update set expires_at = excluded.expires_at
          where seen.expires_at < now()
        returning tenant, key
    )
    select jsonb_build_object('dead', coalesce(jsonb_agg(d.letter order by d.n), '[]'))
      into p_dead
      from jsonb_array_elements(p_dead -> 'dead') with ordinality as d(letter, n)
      join fresh f on f.tenant = d.letter ->> 'tenant' and f.key = d.letter ->> 'key';
    perform commit_rare(p_domain, p_dead);
  end if;
  return query select * from accept_messages(
    p_keys, p_window, o_domain, o_tenant, o_partition, o_agent, o_control, o_id, o_header, o_payload);
end $$;

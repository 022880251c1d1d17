-- Written by `make schema` from the migrations; read it, never edit it.
CREATE SCHEMA callboard;
CREATE TABLE callboard.mailbox (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    agent text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    id uuid NOT NULL,
    failures smallint DEFAULT 0 NOT NULL,
    trials smallint DEFAULT 0 NOT NULL,
    retry_at timestamp with time zone,
    last_error text,
    header json NOT NULL,
    payload json NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='20000', vacuum_truncate=off);
CREATE FUNCTION callboard.accept_events(p_domain text, p_epoch bigint, p_incarnation text, p_upto bigint, p_at_ns bigint, p_keys text[], p_window interval, o_domain text[], o_tenant text[], o_partition integer[], o_agent text[], o_control boolean[], o_id uuid[], o_header text[], o_payload text[], p_dead jsonb) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.accept_messages(p_keys text[], p_window interval, o_domain text[], o_tenant text[], o_partition integer[], o_agent text[], o_control boolean[], o_id uuid[], o_header text[], o_payload text[]) RETURNS SETOF callboard.mailbox
    LANGUAGE sql
    AS $$
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
CREATE FUNCTION callboard.anchor_histories(p_month regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  execute format('
    insert into history_anchors as h (domain, tenant, agent, version, hash)
      select a.domain, a.tenant, a.agent, t.version, t.hash
      from agents a
      cross join lateral (
        select m.version, m.hash from %s m
        where m.domain = a.domain and m.tenant = a.tenant and m.agent = a.agent
        order by m.version desc limit 1) t
      on conflict (domain, tenant, agent) do update
      set version = excluded.version, hash = excluded.hash, dropped_at = excluded.dropped_at
      where h.version < excluded.version', p_month);
end $$;
CREATE TABLE callboard.promises (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    agent text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    turn uuid NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    name text NOT NULL,
    target text COLLATE pg_catalog."C",
    message uuid,
    gates json,
    given_up boolean DEFAULT false NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    due_at timestamp with time zone,
    details json,
    value json,
    settled_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='20000', vacuum_truncate=off);
CREATE FUNCTION callboard.ask_is_held(p callboard.promises, p_agents text[]) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
  select case when child.held is not null then child.held else exists (
      select from turns o
      where o.domain = split_part(p.target, '/', 1) and o.tenant = p.tenant
        and o.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
        and ((o.header ->> 'id')::uuid = p.message
             or exists (select from mailbox m
                        where m.domain = o.domain and m.tenant = o.tenant and m.partition = o.partition
                          and m.agent = o.agent and m.seq > 0 and m.id = p.message))) end
  from (select bool_or((select bool_and(task_is_held(p.tenant, ref, p_agents)) from unnest(h.path) ref)) as held
        from (select distinct path from task_holders(p.tenant, p.target, p.message)) h) child
$$;
CREATE FUNCTION callboard.chained_asks(p_domain text, p_partitions integer[], p_tenant text, p_id uuid, p_limit integer) RETURNS TABLE(tenant text, agent text, id uuid)
    LANGUAGE sql STABLE
    AS $$
  with page as materialized (
    select p.tenant, p.id, p.partition, p.agent, p.kind, p.target,
           p.status = 'pending' and not p.given_up as waits, waits_for_task(p) as waits_for_task
    from promises p
    where p.domain = p_domain and (p.tenant, p.id) > (p_tenant, p_id)
    order by p.tenant, p.id limit p_limit
  )
  select distinct p.tenant, p.agent, null::uuid
  from page p
  where p.partition = any (p_partitions) and p.kind = 'ask' and p.waits
    and (p.waits_for_task or exists (
                select from promises q
                where q.domain = split_part(p.target, '/', 1) and q.tenant = p.tenant
                  and q.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
                  and q.kind = 'ask' and q.status = 'pending' and not q.given_up
                offset 0))
  union all
  (select p.tenant, null, p.id from page p order by p.tenant desc, p.id desc limit 1)
$$;
CREATE FUNCTION callboard.charge_tasks(p_epoch bigint, p_spent jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
  root record;
  reached record;
  letter uuid;
  told int;
  over jsonb;
begin
  insert into spending as s (domain, tenant, task, epoch, hops, asks, steps, tokens, cost)
    select g.domain, g.tenant, g.task, p_epoch, g.hops, g.asks, g.steps, g.tokens, g.cost
    from jsonb_to_recordset(p_spent)
      as g(domain text, tenant text, task uuid, hops bigint, asks bigint, steps bigint, tokens bigint,
           cost numeric)
    on conflict (domain, tenant, task, epoch) do update
    set hops = s.hops + excluded.hops, asks = s.asks + excluded.asks, steps = s.steps + excluded.steps,
        tokens = s.tokens + excluded.tokens, cost = s.cost + excluded.cost;
  for root in
    select g.domain, g.tenant, g.task, g.partition, t.limits
    from jsonb_to_recordset(p_spent) as g(domain text, tenant text, task uuid, partition int)
    join tasks t on t.domain = g.domain and t.tenant = g.tenant and t.id = g.task
    where t.limits is not null
    order by 1, 2, 3  -- as every host does: so none waits for one that waits for it
  loop
    insert into limits_reached (domain, tenant, task, name, used, allowed)
      select root.domain, root.tenant, root.task, l.name, l.used, (root.limits ->> l.name)::numeric
      from used_by(root.domain, root.tenant, root.task) u
      cross join lateral (
        values ('hops', u.hops), ('asks', u.asks), ('steps', u.steps), ('tokens', u.tokens), ('cost', u.cost)
      ) as l(name, used)
      where l.used > (root.limits ->> l.name)::numeric
      limit 1
      on conflict do nothing;
    told := case when found then root.partition end;
    select * into reached from limits_reached r
      where r.domain = root.domain and r.tenant = root.tenant and r.task = root.task;
    continue when not found;
    over := coalesce(over, '[]') || jsonb_build_object(
      'tenant', root.tenant, 'task', root.domain || '/' || root.task, 'limit', reached.name, 'used', reached.used,
      'allowed', reached.allowed, 'told', told);
    if told is not null then
      letter := gen_random_uuid();
      insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
        values (root.domain, root.tenant, told, 'task/' || root.task, nextval('mailbox_seq'), letter,
                json_build_object('id', letter, 'type', 'callboard.limit_reached.v1', 'sender', 'external/limits',
                                  'sent_at', extract(epoch from now())::float8,
                                  'task', root.domain || '/' || root.task),
                json_build_object('limit', reached.name, 'used', reached.used, 'allowed', reached.allowed));
    end if;
  end loop;
  return over;
end $$;
CREATE FUNCTION callboard.commit_journal(p_domain text, p_epoch bigint, p_partitions integer[], p_code text, p_ends integer, p_opens integer, p_goes integer, j_tenant text[], j_partition integer[], j_agent text[], j_seq bigint[], j_turn uuid[], j_does text[], j_recorded integer[], j_adds integer[], j_parks boolean[], j_began_at double precision[], j_number integer[], j_key text[], j_kind text[], j_name text[], j_ok boolean[], j_value text[], j_blob text[], j_took_ms real[], c_tenant text[], c_partition integer[], c_agent text[], c_seq bigint[], p_promises jsonb, l_domain text[], l_tenant text[], l_agent text[], l_id uuid[], l_done boolean[], l_given_up boolean[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.commit_rare(p_domain text, p_rare jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.commit_step(p_domain text, p_epoch bigint, p_partition integer, p_tenant text, p_agent text, p_turn uuid, p_recorded integer, p_began_at double precision, p_number integer, p_key text, p_kind text, p_name text, p_ok boolean, p_value text, p_blob text, p_took_ms real) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.commit_turns(p_domain text, p_epoch bigint, p_partitions integer[], t_tenant text[], t_partition integer[], t_agent text[], t_seq bigint[], t_version bigint[], t_body text[], t_prev bytea[], t_hash bytea[], s_turn integer[], s_from bigint[], s_schema integer[], s_lifecycle text[], s_state text[], o_tenant text[], o_domain text[], o_partition integer[], o_agent text[], o_control boolean[], o_settles uuid[], o_id uuid[], o_header text[], o_payload text[], p_rare jsonb, t_task text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.count_answers() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.end_cancellations(p_domain text, p_epoch bigint, p_partitions integer[]) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
begin
  perform require_fence(p_domain, p_epoch, p_partitions);
  return query
    with over as (
      update cancellations c set ended_at = now()
      where c.domain = p_domain and c.ended_at is null and c.partition = any (p_partitions)
        and not exists (select from hosts h where h.ended_at is null and not h.stopped @> array[c.number])
        and not exists (select from turns t
                        where t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
                          and t.header ->> 'undoes' is null)
      returning c.*
    ), told as (select *, gen_random_uuid() as id from over order by number)
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select t.domain, t.tenant, t.partition, 'task/' || t.task, nextval('mailbox_seq'), t.id,
             json_build_object('id', t.id, 'type', 'callboard.task_stopped.v1', 'sender', 'external/cancellation',
                               'sent_at', extract(epoch from now())::float8, 'task', t.domain || '/' || t.task),
             '{}'
      from told t
    returning *;
end $$;
CREATE FUNCTION callboard.ensure_transition_months(p_ahead integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.fire_schedule(p_domain text, p_epoch bigint, p_name text, p_due double precision, p_next_at double precision, p_keys text[], p_window interval, p_tenant text, p_partition integer, p_agent text, p_id uuid[], p_header text[], p_payload text) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.fire_timers(p_domain text, p_epoch bigint, p_partitions integer[], p_limit integer) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.first_mail(p_domain text, p_tenant text, p_partition integer, p_agent text, p_below bigint, p_each integer, p_bytes bigint) RETURNS TABLE(seq bigint, failures smallint, trials smallint, retry_at double precision, header text, payload text, more boolean)
    LANGUAGE plpgsql STABLE
    AS $$
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
CREATE FUNCTION callboard.is_closed(p_domain text, p_tenant text, p_agent text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS $$
begin
  return exists (select from agents where domain = p_domain and tenant = p_tenant and agent = p_agent
                   and lifecycle = 'paused')
    or exists (select from turns where domain = p_domain and tenant = p_tenant and agent = p_agent);
end $$;
CREATE FUNCTION callboard.is_told_to_end(p_tenant text, p_tasks text[]) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
  select exists (
    select from unnest(p_tasks) ref cross join lateral (
      select a.domain, a.partition, a.agent from agents a
      where a.domain = split_part(ref, '/', 1) and a.tenant = p_tenant and a.agent = 'task/' || split_part(ref, '/', 2) offset 0
    ) l cross join lateral (
      select m.header ->> 'type' as type from mailbox m
      where m.domain = l.domain and m.tenant = p_tenant and m.partition = l.partition and m.agent = l.agent offset 0
    ) m
    where m.type in ('callboard.cancel_child.v1', 'callboard.cancel_task.v1'))
$$;
CREATE FUNCTION callboard.keep_answers(p_tenant text[], p_key bytea[], p_revision bytea[], p_target integer[], p_made_for bytea[], p_body bytea[], p_size bigint[], p_holds interval, p_stays interval, p_answers bigint, p_bytes bigint, p_limit integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.keep_schedules(p_domain text, p_epoch bigint, p_name text[], p_cron text[], p_timezone text[], p_recipient text[], p_catch_up text[], p_next_at double precision[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.load_mail(p_domain text, p_tenant text, p_partition integer, p_after text, p_agents integer, p_each integer, p_each_bytes bigint, p_bytes bigint) RETURNS TABLE(agent text, seq bigint, failures smallint, trials smallint, retry_at double precision, header text, payload text, more boolean)
    LANGUAGE plpgsql STABLE
    AS $$
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
CREATE FUNCTION callboard.load_states(p_domain text, p_tenants text[], p_agents text[], p_bytes bigint) RETURNS TABLE(n bigint, tenant text, agent text, version bigint, schema_version integer, lifecycle text, state text, hash bytea, turn text)
    LANGUAGE plpgsql STABLE
    AS $$
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
CREATE FUNCTION callboard.load_turns(p_domain text, p_partition integer, p_tenant text, p_agent text, p_limit integer, p_bytes bigint) RETURNS TABLE(tenant text, agent text, seq bigint, failures smallint, trials smallint, retry_at double precision, header text, payload text)
    LANGUAGE plpgsql STABLE
    AS $$
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
CREATE FUNCTION callboard.mail_heads(p_domain text, p_tenant text, p_partition integer, p_agent text, p_partitions integer[], p_limit integer) RETURNS TABLE(tenant text, partition integer, agent text, seq bigint)
    LANGUAGE plpgsql STABLE
    AS $$
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
CREATE FUNCTION callboard.may_be_settled(p callboard.promises, p_status text, p_by text, p_digest text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
  select p_status in ('approved', 'denied') and (p.due_at is null or p.due_at > now()) and may_decide(p, p_by, p_status)
    and starts_with(p.details ->> 'digest', coalesce(p_digest, ''))
$$;
CREATE FUNCTION callboard.may_decide(p callboard.promises, p_by text, p_status text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
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
CREATE FUNCTION callboard.messages_waiting(p_domain text, p_enough bigint, p_at_most bigint) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.purge_answers(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
  gone bigint;
begin
  perform 1 from model_answers_held for update;
  delete from model_answers where ctid = any (array(
    select ctid from model_answers where kept_until <= now() order by kept_until limit p_limit));
  get diagnostics gone = row_count;
  return gone;
end $$;
CREATE FUNCTION callboard.refuse_ask(p_domain text[], p_tenant text[], p_id uuid[], p_newest integer, p_value text) RETURNS TABLE(domain text, partition integer, tenant text, agent text, gone uuid, moves boolean)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
  settled promises[];
  asked record;
  withdrawal uuid := gen_random_uuid();
  askers text[];
begin
  perform from promises p join unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id) using (domain, tenant, id)
    order by p.domain, p.tenant, p.id for update of p;  -- from here on none of them is settled
  askers := array(
    select p.domain || '/' || p.agent
    from unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id) join promises p using (domain, tenant, id));
  return query
    select null::text, null::int, null::text, null::text, e.id, coalesce(w.moves, false)
    from (select distinct * from unnest(p_domain, p_tenant, p_id)) as e(domain, tenant, id)
    left join lateral (
      select ask_is_held(p, askers) as holds, waits_for_task(p) as moves
      from promises p
      join turns t on t.domain = p.domain and t.tenant = p.tenant and t.agent = p.agent and t.turn = p.turn
      where p.domain = e.domain and p.tenant = e.tenant and p.id = e.id and p.status = 'pending' and not p.given_up
    ) w on true
    where w.holds is not true;
  if found then
    return;
  end if;
  with done as (
    update promises p set status = 'cycle', value = p_value::json, settled_by = 'external/cycle', settled_at = now()
      where p.domain = p_domain[p_newest] and p.tenant = p_tenant[p_newest] and p.id = p_id[p_newest]
      returning p.*
  )
  select array_agg(done::promises) into settled from done;
  return query select w.domain, w.partition, w.tenant, w.agent, null::uuid, false from wake_owners(settled) w;
  select a.domain, a.tenant, a.partition, a.agent, split_part(a.agent, '/', 1) = 'task' as leads into asked
    from (
      select o.domain, o.tenant, o.partition, o.agent from turns o
      union all
      select l.domain, l.tenant, l.partition, l.agent from agents l where starts_with(l.agent, 'task/')
    ) a
    where a.domain = split_part(settled[1].target, '/', 1) and a.tenant = settled[1].tenant
      and a.agent = substr(settled[1].target, length(split_part(settled[1].target, '/', 1)) + 2);
  return query
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select asked.domain, asked.tenant, asked.partition, asked.agent,
             nextval('mailbox_seq') - case when asked.leads then 0 else 4611686018427387904 end,
             withdrawal,
             json_build_object('id', withdrawal, 'type', m.type, 'sender', 'external/cycle',
                               'sent_at', extract(epoch from now())::float8),
             json_build_object('id', settled[1].message, 'reason', m.reason)
      from (values (true, 'callboard.cancel_child.v1', 'whoever waits for it waits for itself, in a circle'),
                   (false, 'callboard.withdraw.v1', '')) m(leads, type, reason)
      where m.leads = asked.leads
      returning domain, partition, tenant, agent, null::uuid, false;
end $$;
CREATE FUNCTION callboard.release_partitions(p_domain text, p_epoch bigint, p_partitions integer[], p_attempts jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.require_fence(p_domain text, p_epoch bigint, p_partitions integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  perform 1 from hosts
    where domain = p_domain and epoch = p_epoch and ended_at is null and owned @> p_partitions
    for share;
  if not found then
    raise exception 'epoch % of % no longer owns all of %', p_epoch, p_domain, p_partitions using errcode = 'CB001';
  end if;
end $$;
CREATE FUNCTION callboard.rooms(p_domain text, p_tenant text[], p_partition integer[], p_agent text[], p_each bigint, p_all bigint, p_count bigint) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.settle_due(p_domain text, p_epoch bigint, p_partitions integer[], p_limit integer) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.settle_promise(p_domain text, p_tenant text, p_id uuid, p_status text, p_value text, p_by text, p_digest text) RETURNS SETOF callboard.mailbox
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.settle_replies(p_numbers bigint[], o_tenant text[], o_domain text[], o_agent text[], o_settles uuid[], o_header text[], o_payload text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION callboard.stop_cancelled(p_domain text, p_epoch bigint, p_partitions integer[]) RETURNS TABLE(tenant text, agent text, partition integer)
    LANGUAGE plpgsql
    AS $$
begin
  perform require_fence(p_domain, p_epoch, p_partitions);
  delete from timers x where (x.domain, x.tenant, x.seq) in (
    select t.domain, t.tenant, t.seq
    from cancellations c
    join timers t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions)
    for update of t skip locked);
  update turns x set waiting = false where (x.domain, x.tenant, x.agent) in (
    select t.domain, t.tenant, t.agent
    from cancellations c
    join turns t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions) and t.waiting
      and not exists (select from promises p
                      where p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
                        and p.status = 'pending' and (p.kind = 'outcome' or waits_for_task(p)))
    for update of t skip locked);  -- a commit that writes one now is followed by another look
  return query
    select t.tenant, t.agent, t.partition
    from cancellations c
    join turns t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions) and not t.waiting;
end $$;
CREATE FUNCTION callboard.task_holders(p_tenant text, p_leader text, p_child uuid) RETURNS TABLE(path text[], agent text)
    LANGUAGE sql STABLE
    AS $$
  with recursive tree as (
    select array[c.domain || '/' || c.id] as path, c.domain || '/' || c.id as ref, c.status, c.domain, c.id, c.assignee
    from tasks c
    where c.tenant = p_tenant and c.parent = split_part(p_leader, '/', 1) || '/' || split_part(p_leader, '/', 3)
      and c.id = p_child and c.finished_at is null
    union all
    select t.path || (c.domain || '/' || c.id), c.domain || '/' || c.id, c.status, c.domain, c.id, c.assignee
    from tree t join tasks c on c.tenant = p_tenant and c.parent = t.ref
    where t.status = 'ending' and c.finished_at is null and c.status <> 'cancelling'
  ), child as (
    select path, ref, domain || '/task/' || id as leader, assignee,
           split_part(assignee, '/', 1) as domain, substr(assignee, strpos(assignee, '/') + 1) as agent
    from tree where status <> 'ending' and (cardinality(path) = 1 or not is_told_to_end(p_tenant, path))
  )
  select c.path, t.address
  from child c cross join lateral (
    select o.domain || '/' || o.agent as address from turns o
    where o.tenant = p_tenant and o.header ->> 'task' = c.ref
    offset 0
  ) t
  where t.address <> c.leader
  union
  select c.path, c.assignee
  from child c cross join lateral (
    select o.header from turns o where o.domain = c.domain and o.tenant = p_tenant and o.agent = c.agent offset 0
  ) t
  where t.header ->> 'task' is distinct from c.ref and not exists (
    select from transitions x
    where x.tenant = p_tenant and x.task = c.ref and x.domain || '/' || x.agent = c.assignee
      and x.body ->> 'decision' <> 'paused' and x.body #>> '{message,header,type}' = 'callboard.task.v1'
    offset 0)
$$;
CREATE FUNCTION callboard.task_is_held(p_tenant text, p_task text, p_agents text[]) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
  with leader as (
    select split_part(p_task, '/', 1) || '/task/' || split_part(p_task, '/', 2) as address
  ), past as materialized (
    select x.body from transitions x where x.tenant = p_tenant and x.task = p_task
  ), sent as (
    select s ->> 'id' as id, s ->> 'to' as address, s ->> 'type' as type
    from past, json_array_elements(past.body -> 'sends') s
    union all
    select s ->> 1, s ->> 2, s ->> 3
    from turns t
    join journal j on j.domain = t.domain and j.tenant = t.tenant and j.turn = t.turn and j.kind = 'sent',
    json_array_elements(j.value) s
    where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
  )
  select not exists (select from turns t, leader l
                     where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
                       and t.domain || '/' || t.agent <> all (p_agents || l.address))
    and not exists (select from timers t, leader l
                    where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
                      and t.domain || '/' || t.agent <> l.address)
    and not exists (
      select from sent s, leader l
      where s.address <> all (p_agents) and s.type not in ('callboard.wake.v1', 'callboard.call_for_bids.v1')
        and (split_part(s.address, '/', 2) <> 'task' or s.address = l.address and s.type in (
               'callboard.task_completed.v1', 'callboard.task_failed.v1', 'callboard.task_part.v1',
               'callboard.cancel_task.v1'))
        and s.id not in (select past.body #>> '{message,header,id}' from past where past.body ->> 'decision' <> 'paused'))
$$;
CREATE FUNCTION callboard.used_by(p_domain text, p_tenant text, p_task uuid) RETURNS TABLE(hops bigint, asks bigint, steps bigint, tokens bigint, cost numeric)
    LANGUAGE sql STABLE
    AS $$
  select coalesce(sum(s.hops), 0)::bigint, coalesce(sum(s.asks), 0)::bigint, coalesce(sum(s.steps), 0)::bigint,
         coalesce(sum(s.tokens), 0)::bigint, coalesce(sum(s.cost), 0)
  from spending s where s.domain = p_domain and s.tenant = p_tenant and s.task = p_task
$$;
CREATE FUNCTION callboard.wait_edges(p_domain text[], p_tenant text[], p_agent text[], p_limit integer) RETURNS TABLE(domain text, tenant text, agent text, id uuid, target text, made_at bigint, gates json, task text, branch integer, branches integer)
    LANGUAGE sql STABLE
    AS $$
  select o.domain, o.tenant, o.agent, e.id, coalesce(h.agent, e.target), (extract(epoch from e.created_at) * 1000000)::bigint,
         e.gates, h.task, h.branch, h.branches
  from unnest(p_domain, p_tenant, p_agent) as o(domain, tenant, agent)
  cross join lateral (
    select p.id, p.target, p.message, p.created_at, p.gates
    from turns t join promises p
      on p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
    where t.domain = o.domain and t.tenant = o.tenant and t.agent = o.agent
      and p.kind = 'ask' and p.status = 'pending' and not p.given_up
    offset 0
  ) e
  left join lateral (
    select h.agent, h.path[cardinality(h.path)] as task,
           (row_number() over (partition by h.path order by h.agent))::int - 1 as branch,
           (count(*) over (partition by h.path))::int as branches
    from task_holders(o.tenant, e.target, e.message) h where split_part(e.target, '/', 2) = 'task'
  ) h on true
  limit p_limit
$$;
CREATE FUNCTION callboard.waits_for_sleeper(p_domain text, p_number bigint, OUT newer bigint, OUT upto bigint) RETURNS record
    LANGUAGE sql STABLE
    AS $$
  select count(*) filter (where number > p_number),
         count(*) filter (where number <= p_number)
           + (select count(*) from tasks where domain = p_domain and status = 'submitted')
  from (select seq + case when seq < 0 then 4611686018427387904 else 0 end as number  -- below zero: it passes its queue
        from mailbox where domain = p_domain) m
$$;
CREATE FUNCTION callboard.waits_for_task(p callboard.promises) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
  select p.kind = 'ask' and split_part(p.target, '/', 2) = 'task' and not p.given_up
$$;
CREATE FUNCTION callboard.wake_owners(p_settled callboard.promises[]) RETURNS SETOF callboard.mailbox
    LANGUAGE sql
    AS $$
  insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
    select w.domain, w.tenant, w.partition, w.agent, nextval('mailbox_seq') - 4611686018427387904, w.wake,
           json_build_object('id', w.wake, 'type', 'callboard.wake.v1', 'sender', w.settled_by,
                             'sent_at', extract(epoch from now())::float8),
           json_build_object('promise', w.id, 'status', w.status, 'value', w.value, 'by', w.settled_by,
                             'at', extract(epoch from w.settled_at)::float8)
    from (select *, gen_random_uuid() as wake from unnest(p_settled)) w
  returning *
$$;
CREATE FUNCTION callboard.write_ledger(p_domain text, p_epoch bigint, p_calls jsonb) RETURNS void
    LANGUAGE sql
    AS $$
  insert into ledger (domain, tenant, id, agent, message, task, turn, key, tool, effect, digest, arguments, status,
                      attempts, error, approval, said_by, again_by, epoch, ended_at)
    select distinct on (c.tenant, c.id)
           p_domain, c.tenant, c.id, c.agent, c.message, c.task, c.turn, c.key, c.tool, c.effect, c.digest,
           c.arguments::json, c.status, c.attempts, c.error, c.approval, c.said_by, c.again_by, p_epoch,
           case when c.status not in ('started', 'unknown') then now() end
    from rows from (jsonb_to_recordset(p_calls)
      as (tenant text, id uuid, agent text, message uuid, task text, turn uuid, key text, tool text, effect text,
          digest text, arguments text, status text, attempts smallint, error text, approval uuid, said_by text,
          again_by text)) with ordinality
      as c(tenant, id, agent, message, task, turn, key, tool, effect, digest, arguments, status, attempts, error,
           approval, said_by, again_by, n)
    where c.tool is not null
    order by c.tenant, c.id, c.n desc
  on conflict (domain, tenant, id) do update
    set turn = excluded.turn, key = excluded.key, status = excluded.status, attempts = excluded.attempts,
        error = excluded.error,
        -- One that has acted is taken over by a later turn of its message: it acted when it did, and who said so has.
        approval = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                        then coalesce(excluded.approval, ledger.approval) else excluded.approval end,
        said_by = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                       then ledger.said_by else excluded.said_by end,
        reason = case when ledger.status = 'succeeded' and excluded.status = 'succeeded' then ledger.reason end,
        ended_at = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                        then ledger.ended_at else excluded.ended_at end,
        again_by = coalesce(excluded.again_by, ledger.again_by),
        epoch = case when excluded.status = 'started' then excluded.epoch else ledger.epoch end;
  update ledger l
    set status = v.status, error = v.error, said_by = v.said_by,
        ended_at = case when v.status not in ('started', 'unknown') then now() end
    from (
      select v.*, coalesce(v.id, (
               select c.id from ledger c
               where c.domain = p_domain and c.tenant = v.tenant and c.agent = v.agent and c.turn = v.turn
                 and c.key = v.key and c.status in ('started', 'unknown') limit 1)) as call
      from jsonb_to_recordset(p_calls)
        as v(tenant text, id uuid, agent text, turn uuid, key text, tool text, status text, error text, said_by text)
      where v.tool is null offset 0  -- keeps the look-up apart from the join
    ) v
    where l.domain = p_domain and l.tenant = v.tenant and l.id = v.call and l.status in ('started', 'unknown')
$$;
CREATE FUNCTION callboard.write_pauses(p_domain text, p_pauses jsonb) RETURNS void
    LANGUAGE sql
    AS $$
  update pauses x set resumed_at = now(), resumed_by = p.by
    from jsonb_to_recordset(p_pauses) as p(tenant text, task uuid, paused boolean, by text)
    where not p.paused and x.domain = p_domain and x.tenant = p.tenant and x.task = p.task and x.resumed_at is null;
  insert into pauses (domain, tenant, task, by, why)
    select p_domain, p.tenant, p.task, p.by, p.why
    from jsonb_to_recordset(p_pauses) as p(tenant text, task uuid, paused boolean, by text, why text)
    where p.paused
    on conflict do nothing;
$$;
CREATE TABLE callboard.agents (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    version bigint NOT NULL,
    schema_version integer NOT NULL,
    lifecycle text NOT NULL,
    state json,
    hash bytea NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.5', autovacuum_vacuum_threshold='50000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0.5', autovacuum_analyze_threshold='50000', vacuum_truncate=off);
CREATE UNLOGGED TABLE callboard.backlogs (
    domain text NOT NULL COLLATE pg_catalog."C",
    waiting bigint NOT NULL,
    at_seq bigint NOT NULL,
    counted_at timestamp with time zone NOT NULL,
    took interval NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE callboard.blobs (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    bytes bytea NOT NULL,
    touched_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE callboard.cancellations (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    task uuid NOT NULL,
    number bigint NOT NULL,
    partition integer NOT NULL,
    why text NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone
);
ALTER TABLE callboard.cancellations ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME callboard.cancellations_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE callboard.coordinators (
    name text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    node text NOT NULL,
    pid integer NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    release text DEFAULT ''::text NOT NULL,
    schema integer DEFAULT 0 NOT NULL,
    rival text,
    rival_at timestamp with time zone,
    lack json,
    leased_at timestamp with time zone,
    urgent boolean DEFAULT false NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE callboard.dead_letters (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    id bigint NOT NULL,
    partition integer NOT NULL,
    agent text NOT NULL COLLATE pg_catalog."C",
    message uuid NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    failures integer NOT NULL,
    frames text DEFAULT ''::text NOT NULL,
    header json NOT NULL,
    payload json NOT NULL
);
ALTER TABLE callboard.dead_letters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME callboard.dead_letters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE callboard.domain_code (
    domain text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    bundle bytea NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE callboard.domains (
    domain text NOT NULL COLLATE pg_catalog."C",
    partitions integer NOT NULL,
    hash text DEFAULT 'blake2b-64'::text NOT NULL,
    spec json NOT NULL,
    kinds text[] NOT NULL,
    home text NOT NULL,
    code text NOT NULL,
    hosts integer DEFAULT 0 NOT NULL,
    suspect integer[] DEFAULT '{}'::integer[] NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    asleep_after bigint,
    asleep_with bigint,
    asleep_after_event bigint,
    refusal text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT domains_partitions_check CHECK (((partitions >= 1) AND (partitions <= 4096))),
    CONSTRAINT domains_state_check CHECK ((state = ANY (ARRAY['active'::text, 'asleep'::text, 'removed'::text, 'deleting'::text])))
);
CREATE SEQUENCE callboard.epochs
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE callboard.event_cursors (
    domain text NOT NULL COLLATE pg_catalog."C",
    incarnation text NOT NULL,
    seq bigint NOT NULL,
    at_ns bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');
CREATE UNLOGGED TABLE callboard.heartbeats (
    domain text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    lag_ms real DEFAULT 0 NOT NULL,
    blocked_by text,
    backlog bigint DEFAULT 0 NOT NULL,
    agents bigint DEFAULT 0 NOT NULL,
    turns bigint DEFAULT 0 NOT NULL,
    rss_bytes bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE callboard.history_anchors (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    hash bytea NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE callboard.hosts (
    domain text NOT NULL COLLATE pg_catalog."C",
    epoch bigint DEFAULT nextval('callboard.epochs'::regclass) NOT NULL,
    host text NOT NULL,
    node text NOT NULL,
    pid integer NOT NULL,
    machine text DEFAULT ''::text NOT NULL,
    born text NOT NULL,
    code text NOT NULL,
    release text DEFAULT ''::text NOT NULL,
    schema integer DEFAULT 0 NOT NULL,
    owned integer[] DEFAULT '{}'::integer[] NOT NULL,
    wanted integer[] DEFAULT '{}'::integer[] NOT NULL,
    kept integer[] DEFAULT '{}'::integer[] NOT NULL,
    suspect integer[] DEFAULT '{}'::integer[] NOT NULL,
    taken integer[] DEFAULT '{}'::integer[] NOT NULL,
    stopped bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    ready_at timestamp with time zone,
    ended_at timestamp with time zone,
    ended_why text,
    gone_at timestamp with time zone
)
WITH (fillfactor='50');
CREATE TABLE callboard.journal (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent text NOT NULL COLLATE pg_catalog."C",
    turn uuid NOT NULL,
    number integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    name text NOT NULL,
    ok boolean NOT NULL,
    value json NOT NULL,
    blob text,
    took_ms real NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY RANGE (at);
CREATE TABLE callboard.journal_202611 (
    domain text CONSTRAINT journal_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT journal_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT journal_agent_not_null NOT NULL COLLATE pg_catalog."C",
    turn uuid CONSTRAINT journal_turn_not_null NOT NULL,
    number integer CONSTRAINT journal_number_not_null NOT NULL,
    key text CONSTRAINT journal_key_not_null NOT NULL COLLATE pg_catalog."C",
    kind text CONSTRAINT journal_kind_not_null NOT NULL,
    name text CONSTRAINT journal_name_not_null NOT NULL,
    ok boolean CONSTRAINT journal_ok_not_null NOT NULL,
    value json CONSTRAINT journal_value_not_null NOT NULL,
    blob text,
    took_ms real CONSTRAINT journal_took_ms_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT journal_at_not_null NOT NULL
);
CREATE TABLE callboard.journal_202612 (
    domain text CONSTRAINT journal_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT journal_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT journal_agent_not_null NOT NULL COLLATE pg_catalog."C",
    turn uuid CONSTRAINT journal_turn_not_null NOT NULL,
    number integer CONSTRAINT journal_number_not_null NOT NULL,
    key text CONSTRAINT journal_key_not_null NOT NULL COLLATE pg_catalog."C",
    kind text CONSTRAINT journal_kind_not_null NOT NULL,
    name text CONSTRAINT journal_name_not_null NOT NULL,
    ok boolean CONSTRAINT journal_ok_not_null NOT NULL,
    value json CONSTRAINT journal_value_not_null NOT NULL,
    blob text,
    took_ms real CONSTRAINT journal_took_ms_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT journal_at_not_null NOT NULL
);
CREATE TABLE callboard.journal_202701 (
    domain text CONSTRAINT journal_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT journal_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT journal_agent_not_null NOT NULL COLLATE pg_catalog."C",
    turn uuid CONSTRAINT journal_turn_not_null NOT NULL,
    number integer CONSTRAINT journal_number_not_null NOT NULL,
    key text CONSTRAINT journal_key_not_null NOT NULL COLLATE pg_catalog."C",
    kind text CONSTRAINT journal_kind_not_null NOT NULL,
    name text CONSTRAINT journal_name_not_null NOT NULL,
    ok boolean CONSTRAINT journal_ok_not_null NOT NULL,
    value json CONSTRAINT journal_value_not_null NOT NULL,
    blob text,
    took_ms real CONSTRAINT journal_took_ms_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT journal_at_not_null NOT NULL
);
CREATE TABLE callboard.journal_202702 (
    domain text CONSTRAINT journal_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT journal_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT journal_agent_not_null NOT NULL COLLATE pg_catalog."C",
    turn uuid CONSTRAINT journal_turn_not_null NOT NULL,
    number integer CONSTRAINT journal_number_not_null NOT NULL,
    key text CONSTRAINT journal_key_not_null NOT NULL COLLATE pg_catalog."C",
    kind text CONSTRAINT journal_kind_not_null NOT NULL,
    name text CONSTRAINT journal_name_not_null NOT NULL,
    ok boolean CONSTRAINT journal_ok_not_null NOT NULL,
    value json CONSTRAINT journal_value_not_null NOT NULL,
    blob text,
    took_ms real CONSTRAINT journal_took_ms_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT journal_at_not_null NOT NULL
);
CREATE TABLE callboard.journal_default (
    domain text CONSTRAINT journal_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT journal_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT journal_agent_not_null NOT NULL COLLATE pg_catalog."C",
    turn uuid CONSTRAINT journal_turn_not_null NOT NULL,
    number integer CONSTRAINT journal_number_not_null NOT NULL,
    key text CONSTRAINT journal_key_not_null NOT NULL COLLATE pg_catalog."C",
    kind text CONSTRAINT journal_kind_not_null NOT NULL,
    name text CONSTRAINT journal_name_not_null NOT NULL,
    ok boolean CONSTRAINT journal_ok_not_null NOT NULL,
    value json CONSTRAINT journal_value_not_null NOT NULL,
    blob text,
    took_ms real CONSTRAINT journal_took_ms_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT journal_at_not_null NOT NULL
);
CREATE TABLE callboard.ledger (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    agent text NOT NULL COLLATE pg_catalog."C",
    message uuid NOT NULL,
    task text,
    turn uuid NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    tool text NOT NULL,
    effect text NOT NULL,
    digest text NOT NULL,
    arguments json,
    status text NOT NULL,
    attempts smallint NOT NULL,
    error text,
    said_by text,
    reason text,
    again_by text,
    approval uuid,
    epoch bigint NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', vacuum_truncate=off);
CREATE TABLE callboard.limits_reached (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    task uuid NOT NULL,
    name text NOT NULL,
    used numeric NOT NULL,
    allowed numeric NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE SEQUENCE callboard.mailbox_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE callboard.migrations (
    number integer NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE UNLOGGED TABLE callboard.model_answers (
    tenant text NOT NULL COLLATE pg_catalog."C",
    key bytea NOT NULL,
    revision bytea NOT NULL,
    target integer NOT NULL,
    made_for bytea,
    body bytea NOT NULL,
    size bigint NOT NULL,
    stored_at timestamp with time zone DEFAULT now() NOT NULL,
    holds_until timestamp with time zone NOT NULL,
    kept_until timestamp with time zone NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05', toast.autovacuum_vacuum_scale_factor='0.05');
ALTER TABLE ONLY callboard.model_answers ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE UNLOGGED TABLE callboard.model_answers_held (
    one boolean DEFAULT true NOT NULL,
    answers bigint NOT NULL,
    bytes bigint NOT NULL,
    CONSTRAINT model_answers_held_one_check CHECK (one)
);
CREATE TABLE callboard.pauses (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text COLLATE pg_catalog."C",
    task uuid,
    by text NOT NULL,
    why text NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    resumed_at timestamp with time zone,
    resumed_by text
);
CREATE TABLE callboard.schedules (
    domain text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    cron text NOT NULL,
    timezone text NOT NULL,
    recipient text NOT NULL,
    catch_up text NOT NULL,
    next_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone
)
WITH (fillfactor='50');
CREATE TABLE callboard.seen (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE callboard.spending (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    task uuid NOT NULL,
    epoch bigint NOT NULL,
    hops bigint NOT NULL,
    asks bigint NOT NULL,
    steps bigint NOT NULL,
    tokens bigint NOT NULL,
    cost numeric NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE callboard.task_events (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    task uuid NOT NULL,
    number integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    kind text NOT NULL,
    body json NOT NULL
);
CREATE TABLE callboard.tasks (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    status text NOT NULL,
    goal text NOT NULL,
    input json NOT NULL,
    priority smallint NOT NULL,
    policy text,
    assignee text,
    progress real DEFAULT 0 NOT NULL,
    result json,
    error json,
    deadline timestamp with time zone,
    request_key text,
    parent text COLLATE pg_catalog."C",
    root text COLLATE pg_catalog."C",
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    limits json,
    CONSTRAINT tasks_priority_check CHECK (((priority >= 0) AND (priority <= 10)))
);
CREATE TABLE callboard.timers (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    agent text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    due_at timestamp with time zone NOT NULL,
    control boolean DEFAULT false NOT NULL,
    id uuid NOT NULL,
    header json NOT NULL,
    payload json NOT NULL
);
CREATE TABLE callboard.transitions (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    body json NOT NULL,
    prev bytea NOT NULL,
    hash bytea NOT NULL,
    task text COLLATE pg_catalog."C"
)
PARTITION BY RANGE (at);
CREATE TABLE callboard.transitions_default (
    domain text CONSTRAINT transitions_domain_not_null NOT NULL COLLATE pg_catalog."C",
    tenant text CONSTRAINT transitions_tenant_not_null NOT NULL COLLATE pg_catalog."C",
    agent text CONSTRAINT transitions_agent_not_null NOT NULL COLLATE pg_catalog."C",
    version bigint CONSTRAINT transitions_version_not_null NOT NULL,
    at timestamp with time zone DEFAULT now() CONSTRAINT transitions_at_not_null NOT NULL,
    body json CONSTRAINT transitions_body_not_null NOT NULL,
    prev bytea CONSTRAINT transitions_prev_not_null NOT NULL,
    hash bytea CONSTRAINT transitions_hash_not_null NOT NULL,
    task text COLLATE pg_catalog."C"
);
CREATE TABLE callboard.turns (
    domain text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    seq bigint NOT NULL,
    turn uuid NOT NULL,
    code text NOT NULL,
    waiting boolean DEFAULT false NOT NULL,
    failures smallint NOT NULL,
    trials smallint NOT NULL,
    retry_at timestamp with time zone,
    last_error text,
    header json NOT NULL,
    payload json NOT NULL,
    began_at double precision NOT NULL,
    recorded integer DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='20000', vacuum_truncate=off);
ALTER TABLE ONLY callboard.journal ATTACH PARTITION callboard.journal_202611 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY callboard.journal ATTACH PARTITION callboard.journal_202612 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
ALTER TABLE ONLY callboard.journal ATTACH PARTITION callboard.journal_202701 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');
ALTER TABLE ONLY callboard.journal ATTACH PARTITION callboard.journal_202702 FOR VALUES FROM ('2027-02-01 00:00:00+00') TO ('2027-03-01 00:00:00+00');
ALTER TABLE ONLY callboard.journal ATTACH PARTITION callboard.journal_default DEFAULT;
ALTER TABLE ONLY callboard.transitions ATTACH PARTITION callboard.transitions_default DEFAULT;
ALTER TABLE ONLY callboard.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (domain, tenant, agent);
ALTER TABLE ONLY callboard.backlogs
    ADD CONSTRAINT backlogs_pkey PRIMARY KEY (domain);
ALTER TABLE ONLY callboard.blobs
    ADD CONSTRAINT blobs_pkey PRIMARY KEY (domain, tenant, digest);
ALTER TABLE ONLY callboard.cancellations
    ADD CONSTRAINT cancellations_number_key UNIQUE (number);
ALTER TABLE ONLY callboard.cancellations
    ADD CONSTRAINT cancellations_pkey PRIMARY KEY (domain, tenant, task);
ALTER TABLE ONLY callboard.coordinators
    ADD CONSTRAINT coordinators_pkey PRIMARY KEY (name);
ALTER TABLE ONLY callboard.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (domain, tenant, id);
ALTER TABLE ONLY callboard.domain_code
    ADD CONSTRAINT domain_code_pkey PRIMARY KEY (domain, digest);
ALTER TABLE ONLY callboard.domains
    ADD CONSTRAINT domains_pkey PRIMARY KEY (domain);
ALTER TABLE ONLY callboard.event_cursors
    ADD CONSTRAINT event_cursors_pkey PRIMARY KEY (domain);
ALTER TABLE ONLY callboard.heartbeats
    ADD CONSTRAINT heartbeats_pkey PRIMARY KEY (domain, epoch);
ALTER TABLE ONLY callboard.history_anchors
    ADD CONSTRAINT history_anchors_pkey PRIMARY KEY (domain, tenant, agent);
ALTER TABLE ONLY callboard.hosts
    ADD CONSTRAINT hosts_pkey PRIMARY KEY (domain, epoch);
ALTER TABLE ONLY callboard.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (domain, tenant, id);
ALTER TABLE ONLY callboard.limits_reached
    ADD CONSTRAINT limits_reached_pkey PRIMARY KEY (domain, tenant, task);
ALTER TABLE ONLY callboard.mailbox
    ADD CONSTRAINT mailbox_pkey PRIMARY KEY (domain, tenant, partition, agent, seq);
ALTER TABLE ONLY callboard.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (number);
ALTER TABLE ONLY callboard.model_answers_held
    ADD CONSTRAINT model_answers_held_pkey PRIMARY KEY (one);
ALTER TABLE ONLY callboard.model_answers
    ADD CONSTRAINT model_answers_pkey PRIMARY KEY (tenant, key);
ALTER TABLE ONLY callboard.promises
    ADD CONSTRAINT promises_pkey PRIMARY KEY (domain, tenant, id);
ALTER TABLE ONLY callboard.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (domain, name);
ALTER TABLE ONLY callboard.seen
    ADD CONSTRAINT seen_pkey PRIMARY KEY (domain, tenant, key);
ALTER TABLE ONLY callboard.spending
    ADD CONSTRAINT spending_pkey PRIMARY KEY (domain, tenant, task, epoch);
ALTER TABLE ONLY callboard.task_events
    ADD CONSTRAINT task_events_pkey PRIMARY KEY (domain, tenant, task, number);
ALTER TABLE ONLY callboard.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (domain, tenant, id);
ALTER TABLE ONLY callboard.timers
    ADD CONSTRAINT timers_pkey PRIMARY KEY (domain, tenant, seq);
ALTER TABLE ONLY callboard.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (domain, tenant, agent);
CREATE INDEX cancellations_open ON callboard.cancellations USING btree (number) WHERE (ended_at IS NULL);
CREATE INDEX dead_letters_task ON callboard.dead_letters USING btree (((header ->> 'task'::text))) WHERE ((header ->> 'task'::text) IS NOT NULL);
CREATE INDEX hosts_live ON callboard.hosts USING btree (domain) WHERE (ended_at IS NULL);
CREATE INDEX hosts_not_known_gone ON callboard.hosts USING btree (domain, epoch) WHERE ((ended_at IS NOT NULL) AND (gone_at IS NULL));
CREATE INDEX journal_turn ON ONLY callboard.journal USING btree (turn, number);
CREATE INDEX journal_202611_turn_number_idx ON callboard.journal_202611 USING btree (turn, number);
CREATE INDEX journal_202612_turn_number_idx ON callboard.journal_202612 USING btree (turn, number);
CREATE INDEX journal_202701_turn_number_idx ON callboard.journal_202701 USING btree (turn, number);
CREATE INDEX journal_202702_turn_number_idx ON callboard.journal_202702 USING btree (turn, number);
CREATE INDEX journal_default_turn_number_idx ON callboard.journal_default USING btree (turn, number);
CREATE INDEX ledger_agent ON callboard.ledger USING btree (domain, tenant, agent, message);
CREATE INDEX ledger_said ON callboard.ledger USING btree (tenant, id) WHERE (said_by IS NOT NULL);
CREATE INDEX ledger_unknown ON callboard.ledger USING btree (domain, tenant, started_at) WHERE (status = ANY (ARRAY['started'::text, 'unknown'::text]));
CREATE INDEX model_answers_kept ON callboard.model_answers USING btree (kept_until);
CREATE INDEX model_answers_stored ON callboard.model_answers USING btree (stored_at);
CREATE UNIQUE INDEX pauses_open ON callboard.pauses USING btree (domain, tenant, task) NULLS NOT DISTINCT WHERE (resumed_at IS NULL);
CREATE INDEX promises_decided ON callboard.promises USING btree (tenant, kind, settled_at DESC, id) WHERE ((kind = ANY (ARRAY['approval'::text, 'outcome'::text, 'promise'::text])) AND (status <> 'pending'::text));
CREATE INDEX promises_due ON callboard.promises USING btree (domain, partition, due_at) WHERE ((status = 'pending'::text) AND (due_at IS NOT NULL));
CREATE INDEX promises_for_people ON callboard.promises USING btree (tenant, kind, created_at, id) WHERE ((kind = ANY (ARRAY['approval'::text, 'outcome'::text, 'promise'::text])) AND (status = 'pending'::text));
CREATE INDEX promises_owner ON callboard.promises USING btree (agent, tenant, domain, turn);
CREATE INDEX seen_expiry ON callboard.seen USING btree (expires_at);
CREATE INDEX tasks_children ON callboard.tasks USING btree (tenant, parent, id) WHERE (parent IS NOT NULL);
CREATE INDEX tasks_open ON callboard.tasks USING btree (domain, tenant, assignee) WHERE (finished_at IS NULL);
CREATE UNIQUE INDEX tasks_request ON callboard.tasks USING btree (domain, tenant, request_key) WHERE (request_key IS NOT NULL);
CREATE INDEX tasks_waiting ON callboard.tasks USING btree (domain, priority DESC, created_at) WHERE (status = 'submitted'::text);
CREATE INDEX tasks_waiting_children ON callboard.tasks USING btree (domain, priority DESC, created_at) WHERE ((status = 'submitted'::text) AND (parent IS NOT NULL));
CREATE INDEX timers_due ON callboard.timers USING btree (domain, partition, due_at);
CREATE INDEX timers_task ON callboard.timers USING btree (tenant, ((header ->> 'task'::text)) COLLATE "C") WHERE ((header ->> 'task'::text) IS NOT NULL);
CREATE INDEX transitions_agent ON ONLY callboard.transitions USING btree (domain, tenant, agent, version);
CREATE INDEX transitions_default_domain_tenant_agent_version_idx ON callboard.transitions_default USING btree (domain, tenant, agent, version);
CREATE INDEX transitions_task ON ONLY callboard.transitions USING btree (tenant, task, at) WHERE (task IS NOT NULL);
CREATE INDEX transitions_default_tenant_task_at_idx ON callboard.transitions_default USING btree (tenant, task, at) WHERE (task IS NOT NULL);
CREATE INDEX turns_task ON callboard.turns USING btree (tenant, ((header ->> 'task'::text)) COLLATE "C") WHERE ((header ->> 'task'::text) IS NOT NULL);
CREATE INDEX turns_to_run ON callboard.turns USING btree (domain, partition, tenant, agent) WHERE (NOT waiting);
ALTER INDEX callboard.journal_turn ATTACH PARTITION callboard.journal_202611_turn_number_idx;
ALTER INDEX callboard.journal_turn ATTACH PARTITION callboard.journal_202612_turn_number_idx;
ALTER INDEX callboard.journal_turn ATTACH PARTITION callboard.journal_202701_turn_number_idx;
ALTER INDEX callboard.journal_turn ATTACH PARTITION callboard.journal_202702_turn_number_idx;
ALTER INDEX callboard.journal_turn ATTACH PARTITION callboard.journal_default_turn_number_idx;
ALTER INDEX callboard.transitions_agent ATTACH PARTITION callboard.transitions_default_domain_tenant_agent_version_idx;
ALTER INDEX callboard.transitions_task ATTACH PARTITION callboard.transitions_default_tenant_task_at_idx;
CREATE TRIGGER model_answers_added AFTER INSERT ON callboard.model_answers REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION callboard.count_answers();
CREATE TRIGGER model_answers_emptied AFTER TRUNCATE ON callboard.model_answers FOR EACH STATEMENT EXECUTE FUNCTION callboard.count_answers();
CREATE TRIGGER model_answers_gone AFTER DELETE ON callboard.model_answers REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION callboard.count_answers();

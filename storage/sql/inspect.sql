-- What people look at. Nothing here locks or changes a row.

-- name: inspect_agents
-- One page of a domain's agents after (tenant, agent), also those whose first turn has not ended; the count of
-- waiting messages stops at 1,000, and that of promises at 100.
with listed as (
  (select agent from agents where domain = $1 and tenant = $2 and agent > $3 order by agent limit $4)
  union
  (select agent from turns where domain = $1 and tenant = $2 and agent > $3 order by agent limit $4)
  order by agent limit $4
)
select $2 as tenant, l.agent, coalesce(a.partition, t.partition) as partition,
       coalesce(a.lifecycle, 'created') as lifecycle, coalesce(a.version, 0) as version, a.updated_at, m.waiting,
       case when t.waiting then 'waiting' when t.agent is not null then 'open' end as turn,
       t.last_error, t.failures, w.kind as waits_for, coalesce(w.target, w.name) as waits_on, w.due_at,
       coalesce(w.pending, 0) as pending
from listed l
left join agents a on a.domain = $1 and a.tenant = $2 and a.agent = l.agent
left join turns t on t.domain = $1 and t.tenant = $2 and t.agent = l.agent
left join lateral (
  select count(*) as waiting from (
    select from mailbox m
    where m.domain = $1 and m.tenant = $2 and m.partition = coalesce(a.partition, t.partition) and m.agent = l.agent
    limit 1000
  ) capped
) m on true
left join lateral (
  select p.kind, p.target, p.name, p.due_at, count(*) over () as pending
  from (select * from promises p where p.domain = $1 and p.tenant = $2 and p.agent = l.agent and p.turn = t.turn
          and p.status = 'pending' limit 100) p
  order by p.created_at, p.id limit 1
) w on true
order by l.agent

-- name: inspect_open_turn
select t.turn::text as turn, t.seq, t.header::text as header, t.code, (select code from domains where domain = t.domain) as code_now, t.began_at, t.waiting as put_away, t.failures,
       t.trials, t.retry_at, t.last_error,
       (select count(*) from journal j where j.domain = t.domain and j.tenant = t.tenant and j.turn = t.turn
          and j.kind not in ('sent', 'void') and not exists (
            select from journal v where v.domain = t.domain and v.tenant = t.tenant and v.turn = t.turn
              and v.kind = 'void' and v.name = j.key and v.number > j.number)) as recorded
from turns t where t.domain = $1 and t.tenant = $2 and t.agent = $3

-- name: inspect_promises
select id::text as id, key, kind, name, target, status, due_at, created_at, settled_by, settled_at
from promises where domain = $1 and tenant = $2 and agent = $3 and turn = $4::uuid
order by created_at, id limit $5

-- name: inspect_agent
select version, schema_version, lifecycle, state::text as state, hash, updated_at
from agents where domain = $1 and tenant = $2 and agent = $3

-- name: inspect_paused_of
-- Of agents (domain, kind/key) those that are paused, the tasks that they lead if these are, and their domains. `unfit`: the
-- open turn of the agent has failed with NonDeterministicHandler.
select a.domain || '/' || a.agent as address,
       coalesce(o.last_error like 'NonDeterministicHandler:%', false) as unfit
from unnest($2::text[], $3::text[]) as wanted (domain, agent)
join agents a on a.domain = wanted.domain and a.tenant = $1 and a.agent = wanted.agent
left join turns o on o.domain = a.domain and o.tenant = a.tenant and o.agent = a.agent
where a.lifecycle = 'paused'
union select p.domain, false
      from pauses p where p.task is null and p.resumed_at is null and p.domain = any ($2::text[])
union select p.domain || '/' || p.task, false
      from unnest($2::text[], $3::text[]) as wanted (domain, agent)
      join pauses p on p.domain = wanted.domain and wanted.agent = 'task/' || p.task
      where p.tenant = $1 and p.resumed_at is null
order by 1

-- name: inspect_paused_at_work
-- Of the agents that lead an open task, or were assigned one, those that are paused.
select a.domain || '/' || a.agent as address,
       coalesce(o.last_error like 'NonDeterministicHandler:%', false) as unfit
from (
    select distinct split_part(assignee, '/', 1) as domain, substr(assignee, strpos(assignee, '/') + 1) as agent
    from tasks where domain = $1 and tenant = $2 and finished_at is null and assignee is not null
    union
    select domain, 'task/' || id from tasks where domain = $1 and tenant = $2 and finished_at is null
) as working
join agents a on a.domain = working.domain and a.tenant = $2 and a.agent = working.agent
left join turns o on o.domain = a.domain and o.tenant = a.tenant and o.agent = a.agent
where a.lifecycle = 'paused' order by 1 limit $3

-- name: inspect_mailbox
select seq, id::text as id, header::text as header, failures, trials, retry_at, last_error
from mailbox where domain = $1 and tenant = $2 and partition = $3 and agent = $4 order by seq limit $5

-- name: inspect_mailbox_size
select count(*) from mailbox where domain = $1 and tenant = $2 and partition = $3 and agent = $4

-- name: inspect_timers
select seq, id::text as id, header::text as header, due_at
from timers where domain = $1 and tenant = $2 and partition = $3 and agent = $4 order by due_at, seq limit $5

-- name: inspect_owner
select h.epoch, h.host, h.node, h.pid, extract(epoch from now() - b.at)::float8 as silent_s
from hosts h left join heartbeats b using (domain, epoch)
where h.domain = $1 and h.ended_at is null and h.owned @> array[$2::int]

-- name: inspect_history
-- Newest first, from below a version on.
select version, at, body::text as body, prev, hash
from transitions where domain = $1 and tenant = $2 and agent = $3 and version < $4
order by version desc limit $5

-- name: inspect_dead_letters
select domain, tenant, id, agent, message::text as message, at, reason, error, failures, frames,
       header ->> 'type' as type, header ->> 'sender' as sender, header ->> 'task' as task,
       (header ->> 'letter')::bigint as was, header ->> 'reply_to' is not null as asked
from dead_letters where domain = any ($1::text[]) and tenant = $2 and id > $3
order by id limit $4

-- name: inspect_dead_letters_of_task
select domain, tenant, id, agent, message::text as message, at, reason, error, failures, frames,
       header ->> 'type' as type, header ->> 'sender' as sender, header ->> 'task' as task,
       (header ->> 'letter')::bigint as was, header ->> 'reply_to' is not null as asked
from dead_letters
where header ->> 'task' = $2 and tenant = $1
  and reason <> 'expired' and header ->> 'type' <> 'callboard.call_for_bids.v1'  -- nobody waits for these
order by id limit $3

-- name: inspect_dead_letter
select domain, tenant, id, agent, message::text as message, at, reason, error, failures, frames,
       header ->> 'type' as type, header ->> 'sender' as sender, header ->> 'task' as task,
       (header ->> 'letter')::bigint as was, header ->> 'reply_to' is not null as asked, header::text as header, payload::text as payload
from dead_letters where domain = any ($1::text[]) and tenant = $2 and id = $3

-- The dead letter that another has become since, with the same message.
-- name: inspect_dead_letter_again
select domain, tenant, id, agent, message::text as message, at, reason, error, failures, frames,
       header ->> 'type' as type, header ->> 'sender' as sender, header ->> 'task' as task,
       (header ->> 'letter')::bigint as was, header ->> 'reply_to' is not null as asked
from dead_letters where domain = any ($1::text[]) and tenant = $2 and id > $3 and message = $4::uuid
order by id limit 1

-- name: inspect_hosts
select h.domain, h.epoch, h.host, h.node, h.pid, h.release, h.owned, h.wanted, h.kept, h.suspect, h.draining,
       h.started_at, h.ready_at is not null as ready, h.ended_at, h.ended_why,
       extract(epoch from now() - coalesce(b.at, h.started_at))::float8 as silent_s,
       coalesce(b.lag_ms, 0)::float8 as lag_ms, b.blocked_by, coalesce(b.backlog, 0) as backlog,
       coalesce(b.agents, 0) as agents, coalesce(b.turns, 0) as turns, coalesce(b.rss_bytes, 0) as rss_bytes
from hosts h left join heartbeats b using (domain, epoch)
where h.ended_at is null or h.ended_at > now() - make_interval(secs => $1::float8)
order by h.domain, h.ended_at nulls first, h.epoch

-- name: inspect_coordinators
select name, epoch, node, pid, release, started_at,
       case when rival_at > now() - interval '30 seconds' then rival end as rival, lack::text as lack
from coordinators order by name <> 'master', name

-- name: inspect_domains
-- Counts are exact; an index-only scan of a million waiting messages takes about 0.1 s.
select d.domain, d.partitions, d.kinds, d.home, d.code, d.state, d.updated_at, d.refusal,
       (select count(*) from hosts h where h.domain = d.domain and h.ended_at is null) as hosts,
       (select count(*) from mailbox m where m.domain = d.domain) as backlog,
       (select count(*) from timers t where t.domain = d.domain) as timers,
       (select count(*) from turns t where t.domain = d.domain) as open_turns,
       (select count(*) from agents a where a.domain = d.domain) as agents,
       (select count(*) from dead_letters x where x.domain = d.domain) as dead_letters,
       (select count(*) from tasks t where t.domain = d.domain and t.finished_at is null) as open_tasks,
       (select count(*) from tasks t
        where t.domain = d.domain and t.finished_at is null and t.status = 'stuck') as stuck_tasks,
       (select count(*) from tasks t
        where t.domain = d.domain and t.finished_at is null and t.status = 'paused') as paused_tasks,
       (select concat_ws(': ', p.by, nullif(p.why, '')) from pauses p
        where p.domain = d.domain and p.task is null and p.resumed_at is null) as paused_by,
       array(
         select p from generate_series(0, d.partitions - 1) p
         where d.state = 'active' and not exists (
           select from hosts h where h.domain = d.domain and h.ended_at is null and h.owned @> array[p])
       ) as unowned
from domains d order by d.domain

-- name: inspect_tables
-- The months of the history are one table here.
select case when c.relname like 'transitions\_%' then 'transitions' else c.relname end as name,
       sum(pg_total_relation_size(c.oid))::bigint as bytes,
       sum(greatest(coalesce(s.n_live_tup, 0), 0))::bigint as rows,
       sum(coalesce(s.n_dead_tup, 0))::bigint as dead_rows
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_stat_user_tables s on s.relid = c.oid
where n.nspname = 'callboard' and c.relkind = 'r'
group by 1 order by 2 desc, 1

-- name: inspect_months
-- The history's monthly tables, as YYYYMM, and how many rows went astray into the default one.
select array(
         select right(c.relname, 6) from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'callboard.transitions'::regclass and c.relname ~ '^transitions_[0-9]{6}$'
         order by 1
       ) as months,
       (select count(*) from (select from transitions_default limit 1000) d) as astray,
       to_char(now(), 'YYYYMM') as now

-- name: inspect_tasks
select domain, tenant, id::text as id, status, goal, priority, policy, assignee, progress, deadline,
       created_at, updated_at, finished_at, parent, root
from tasks where tenant = $1 and ($2::text is null or domain = $2) and ($3 or finished_at is null)
  and (not $4 or (finished_at is null and status = 'stuck'))
order by created_at desc, id desc limit $5

-- name: inspect_task
select domain, tenant, id::text as id, status, goal, priority, policy, assignee, progress, deadline,
       created_at, updated_at, finished_at, parent, root, input::text as input, result::text as result, error::text as error
from tasks where domain = any ($1::text[]) and tenant = $2 and id = $3::uuid

-- name: inspect_task_by_part
-- By one end of its id.
select domain, id::text as id from tasks
where domain = any ($1::text[]) and tenant = $2
  and ((not $6 and id between $3 and $4) or (length($5) < 32 and right(replace(id::text, '-', ''), length($5)) = $5))
order by created_at desc, id desc limit $7

-- name: inspect_children
select domain, tenant, id::text as id, status, goal, priority, policy, assignee, progress, deadline,
       created_at, updated_at, finished_at, parent, root
from tasks where tenant = $1 and parent = $2 order by created_at, id limit $3

-- name: inspect_task_is_idle
-- Whether a task has the status $6, no child of it is open, no turn of it was in the last $4 seconds, and none of the
-- messages, open turns and timers of the whole deployment is part of it, or is shared work that it may wait for; its
-- leader's own timers aside. Of a stuck one what is paused or waits for people alone is left out, and so is shared work:
-- a turn of its own would wait for that. Of each at most $5 are looked at, in the order of the primary key; with more of
-- one than that: false.
select t.status = $6
   and not exists (select from tasks c where c.tenant = t.tenant and c.parent = $3 and c.finished_at is null)
   and not exists (select from transitions h where h.tenant = t.tenant and h.task = $3
                     and h.at > now() - make_interval(secs => $4))
   and not exists (
     select from (
       (select 'mail' as what, domain, tenant, agent, null::uuid as parked, header from mailbox
        order by domain, tenant, partition, agent, seq limit $5 + 1)
       union all
       (select 'turn', domain, tenant, agent, case when waiting then turn end, header from turns
        order by domain, tenant, agent limit $5 + 1)
       union all
       (select 'timer', domain, tenant, agent, null, header from timers order by domain, tenant, seq limit $5 + 1)
     ) o
     group by o.what
     having count(*) > $5
         or bool_or(o.tenant = t.tenant and (
              (t.status <> 'stuck' and (o.header ->> 'shared')::boolean is true)
              or case when o.domain = t.domain and o.agent = 'task/' || t.id then o.what <> 'timer'
                      when o.header ->> 'task' is distinct from $3 then false
                      when t.status <> 'stuck' then true
                      else not exists (select from agents a where a.domain = o.domain and a.tenant = o.tenant
                                         and a.agent = o.agent and a.lifecycle = 'paused')
                       and (select bool_and(p.kind in ('approval', 'outcome') and p.due_at is null) from promises p
                            where p.agent = o.agent and p.tenant = o.tenant and p.domain = o.domain
                              and p.turn = o.parked and p.status = 'pending') is not true end)))
from tasks t where t.domain = $1 and t.tenant = $2 and t.id = split_part($3, '/', 2)::uuid

-- name: inspect_usage
-- What was used for the task at the top of a tree, and what may be.
select u.hops, u.asks, u.steps, u.tokens, u.cost, t.limits::text as limits,
  (select round(extract(epoch from coalesce(t.finished_at, now()) - e.at), 1)
   from task_events e
   where e.domain = t.domain and e.tenant = t.tenant and e.task = t.id and e.kind in ('assigned', 'called_for_bids')
   order by e.number limit 1) as wall_s
from tasks t, used_by(t.domain, t.tenant, t.id) u where t.domain = $1 and t.tenant = $2 and t.id = $3::uuid

-- name: inspect_task_tree
-- The references of a task and of all that it has led to, those nearest to it first.
with recursive tree as (
  select $2::text collate "C" as ref, 0 as depth
  union all
  select c.domain || '/' || c.id, t.depth + 1
  from tree t join tasks c on c.tenant = $1 and c.parent = t.ref
  where t.depth < 100
)
select ref from tree order by depth limit $3

-- name: inspect_task_events
select number, at, kind, body::text as body
from task_events where domain = $1 and tenant = $2 and task = $3::uuid and number > $4 order by number limit $5

-- name: database_now
select extract(epoch from clock_timestamp())::float8

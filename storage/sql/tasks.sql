-- Tasks: submitted by anybody, handed over by a domain's coordinator, then written by their own agents only.

-- name: submit_task
-- One statement, so that a task and the first line of its log are there together or not at all.
with accepted as (
  insert into tasks (domain, tenant, id, status, goal, input, priority, policy, deadline, request_key, limits)
  select domain, $2, $3::uuid, 'submitted', $4, $5::json, $6, $7, to_timestamp($8::float8), $9,
         nullif(jsonb_strip_nulls(coalesce((spec -> 'tasks' -> 'limits')::jsonb, '{}') || $13::jsonb), '{}')::json
  from domains, lateral (select coalesce((spec -> 'limits' ->> 'backlog')::bigint, $12::bigint) as backlog) l
  where domain = $1
    and state in ('active', 'asleep')
    and ($8::float8 is null or to_timestamp($8::float8) > now())
    and messages_waiting(domain, l.backlog - 1, l.backlog) < l.backlog
    and $11::int <= coalesce((spec -> 'limits' ->> 'payload_bytes')::int, $11::int)
    and not exists (
      select from tasks w where w.domain = $1 and w.status = 'submitted'
      offset coalesce((spec -> 'tasks' ->> 'waiting')::int, 10000) - 1 limit 1)
  on conflict do nothing
  returning domain, tenant, id
), logged as (
  insert into task_events (domain, tenant, task, number, kind, body)
  select domain, tenant, id, 1, 'submitted', $10::json from accepted
), woken as (
  update domains d set state = 'active', asleep_after = null, asleep_with = null, asleep_after_event = null from accepted a
  where d.domain = a.domain and d.state = 'asleep'
)
select id::text from accepted

-- name: why_not_submitted
select coalesce(d.state in ('active', 'asleep'), false) as known,
       ($5::float8 is not null and to_timestamp($5::float8) <= now()) as late,
       (d.spec -> 'limits' ->> 'payload_bytes')::int as payload_bytes,
       t.id::text as id, t.goal, t.input::text as input
from (select) one
left join domains d on d.domain = $1
left join lateral (
  select id, goal, input from tasks
  where domain = $1 and tenant = $2 and (id = $3::uuid or request_key = $4)
  order by id = $3::uuid desc limit 1
) t on true

-- name: open_tasks
-- Stuck and paused ones wait for a person and do no work: they keep nobody else waiting.
select count(*) from tasks where domain = $1 and finished_at is null and status not in ('submitted', 'stuck', 'paused')

-- name: tasks_at_work
-- Of the open ones, those that wait for no child.
select count(*) from tasks t
where domain = $1 and finished_at is null and status not in ('submitted', 'stuck', 'paused')
  and not exists (select from tasks c
                  where c.tenant = t.tenant and c.parent = t.domain || '/' || t.id and c.finished_at is null)

-- name: has_waiting_tasks
select exists (select from tasks where domain = $1 and status = 'submitted')

-- name: waiting_tasks
-- In the order in which they are assigned; locked until the transaction ends.
select tenant, id::text as id, goal, input::text as input, priority, policy,
       extract(epoch from deadline)::float8 as deadline, root, (limits ->> 'wall_s')::float8 as wall_s
from tasks where domain = $1 and status = 'submitted'
order by priority desc, created_at, id
limit $2 for update skip locked

-- name: waiting_children
-- Those of them that a task has started, in the same order.
select tenant, id::text as id, goal, input::text as input, priority, policy,
       extract(epoch from deadline)::float8 as deadline, root, (limits ->> 'wall_s')::float8 as wall_s
from tasks where domain = $1 and status = 'submitted' and parent is not null
order by priority desc, created_at, id
limit $2 for update skip locked

-- name: hand_over_task
update tasks set status = 'assigned', policy = $4, assignee = $5, updated_at = now()
where domain = $1 and tenant = $2 and id = $3::uuid and status = 'submitted'

-- name: open_tasks_of
select assignee, count(*)::int as open from tasks
where domain = $1 and tenant = $2 and assignee = any ($3::text[]) and finished_at is null
group by assignee

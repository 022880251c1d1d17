-- Calls of tools.

-- name: earlier_calls
-- Of a message, in the turns before this one: those that may have acted, with their results. An idempotent one that has
-- failed is among them: whoever makes it again does so under the same key. What a turn has done that was undone since is not.
select l.id::text as id, l.turn::text as turn, l.key, l.tool, l.digest, l.effect, l.status, l.attempts, l.epoch, j.value::text as value, j.blob
from ledger l
left join lateral (
  select value, blob from journal
  where domain = l.domain and tenant = l.tenant and turn = l.turn and agent = l.agent and key = l.key
    and kind = 'call' and ok
  order by number desc limit 1  -- an operator may have given it another result
) j on true
where l.domain = $1 and l.tenant = $2 and l.agent = $3 and l.message = $4 and l.effect <> 'pure'
  and (l.status in ('started', 'succeeded', 'unknown') or (l.effect = 'idempotent' and l.status = 'failed'))
  and not (l.status = 'succeeded' and exists (select from journal where turn = l.turn and kind = 'undo' and ok))
order by l.started_at, l.id

-- name: host_is_gone
select gone_at is not null from hosts where domain = $1 and epoch = $2

-- name: hosts_not_known_gone
-- Those of the last day: the index of live hosts is no help, and retention keeps the table short. By chance, for of those
-- on a lost node nothing is ever known.
select epoch, node,
       (select near.node from hosts near where near.machine = h.machine and h.machine <> '' and near.ended_at is null
        order by near.epoch desc limit 1) as near,
       machine, pid, born
from hosts h
where domain = $1 and ended_at > now() - interval '1 day' and gone_at is null
order by random() limit 50

-- name: host_gone
update hosts set gone_at = now() where domain = $1 and epoch = $2 and gone_at is null

-- name: promises_to_settle
select p.id::text as id, p.domain, p.agent, p.kind, p.name, p.details::text as details,
       p.created_at, p.due_at, p.status,
       p.settled_by, p.settled_at, p.value::text as value
from unnest($2::text[]) as k(kind)
cross join lateral (  -- along the index, kind by kind
  select * from promises o
  where o.tenant = $1 and o.kind = k.kind and o.status = 'pending' and o.kind in ('approval', 'outcome', 'promise')
  order by o.created_at, o.id limit $3
) p
order by p.created_at, p.id limit $3

-- name: promises_of_task
-- Of the open turns of a task (domain/id) and of the tasks that it has started.
with recursive tree as (
  select $2::text collate "C" as ref
  union all
  select c.domain || '/' || c.id from tree t join tasks c on c.tenant = $1 and c.parent = t.ref
  where c.finished_at is null
)
select p.id::text as id, p.domain, p.agent, p.kind, p.name, p.details::text as details,
       p.created_at, p.due_at, p.status,
       p.settled_by, p.settled_at, p.value::text as value
from tree
join turns t on t.tenant = $1 and t.header ->> 'task' = tree.ref
join promises p on p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
where p.kind = any ($3::text[]) and p.status = 'pending'
order by p.created_at, p.id limit $4

-- name: promises_settled
select p.id::text as id, p.domain, p.agent, p.kind, p.name, p.details::text as details,
       p.created_at, p.due_at, p.status,
       p.settled_by, p.settled_at, p.value::text as value
from unnest($2::text[]) as k(kind)
cross join lateral (
  select * from promises o
  where o.tenant = $1 and o.kind = k.kind and o.status <> 'pending' and o.kind in ('approval', 'outcome', 'promise')
  order by o.settled_at desc, o.id limit $3
) p
order by p.settled_at desc, p.id limit $3

-- name: find_promise
-- By one end of its id: one probe in each domain for the beginning, and a look at all for the end.
select p.id::text as id, p.domain, p.agent, p.kind, p.name, p.details::text as details,
       p.created_at, p.due_at, p.status,
       p.settled_by, p.settled_at, p.value::text as value
from domains d
cross join lateral (
  select id from promises where domain = d.domain and tenant = $1 and not $5 and id between $2 and $3
  union
  select id from promises where domain = d.domain and tenant = $1 and length($4) < 32
    and right(replace(id::text, '-', ''), length($4)) = $4
) m
join promises p on p.domain = d.domain and p.tenant = $1 and p.id = m.id
order by p.created_at, p.id limit $6

-- name: find_question
-- About a call, by one end of its own id or of the call's: a look at all, which are as few as people have been asked. Of
-- several about one call the newest, and how many of them fit.
select distinct on (q.details ->> 'call') q.id::text as id, q.domain, q.agent, q.kind, q.name, q.details::text as details,
       q.created_at, q.due_at, q.status,
       q.settled_by, q.settled_at, q.value::text as value, q.details ->> 'call' as call,
       count(*) over (partition by q.details ->> 'call') as fits
from (
  select * from promises where tenant = $1 and kind = 'outcome' and status = 'pending'
  union all  -- along an index each
  select * from promises where tenant = $1 and kind = 'outcome' and status <> 'pending'
) q
where exists (
  select from (values (q.id::text), (q.details ->> 'call')) as one(id), replace(one.id, '-', '') as digits
  where (not $3 and starts_with(digits, $2)) or right(digits, length($2)) = $2)
order by q.details ->> 'call', q.created_at desc, q.id limit $4

-- name: find_left_call
-- Of which nobody knows what it did, and which nobody waits for; or of which that was said. By one end of its id, or as one of
-- those in $4: a look at all, which are few.
select l.domain, l.agent, l.id::text as id, l.tool, l.said_by, l.again_by, extract(epoch from l.ended_at)::float8 as said_at
from (
  select * from ledger where tenant = $1 and status = 'unknown' and error is not null
  union all  -- along an index each
  select * from ledger where tenant = $1 and said_by is not null and ended_at is not null
) l, replace(l.id::text, '-', '') as digits
where (not $3 and starts_with(digits, $2)) or right(digits, length($2)) = $2 or l.id = any ($4::uuid[])
order by l.id limit $5

-- name: settle_left_call
update ledger set status = $4, error = null, said_by = $5, reason = $6, ended_at = now()
where domain = $1 and tenant = $2 and id = $3 and status = 'unknown' and error is not null
returning true

-- name: promise_standing
select p.domain || '/' || p.agent as address, p.kind, p.name, p.status, p.settled_by,
       extract(epoch from p.settled_at)::float8 as settled_at,
       extract(epoch from p.due_at)::float8 as due_at, coalesce(p.due_at <= now(), false) as is_due,
       p.kind <> 'approval' or may_decide(p, $4, 'approved') as may_approve,
       p.kind <> 'approval' or may_decide(p, $4, 'denied') as may_deny, p.details::text as details, p.value::text as value
from promises p where p.domain = $1 and p.tenant = $2 and p.id = $3

-- name: count_acted
select count(*) from ledger where tenant = $1 and task = $2 and status = 'succeeded'

-- name: list_ledger
select domain, agent, id::text as id, tool, effect, status, attempts, error, said_by, reason, again_by, digest,
       arguments::text as arguments, task, message::text as message, approval::text as approval,
       case when status = 'unknown' then (
         select p.id::text from promises p
         where p.domain = l.domain and p.tenant = l.tenant and p.agent = l.agent and p.turn = l.turn and p.kind = 'outcome'
           and p.status = 'pending' and p.details ->> 'call' = l.id::text limit 1) end as question,
       started_at, ended_at
from ledger l
where tenant = $1 and ($2::text is null or domain = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or task = $4) and (not $5 or status in ('started', 'unknown'))
order by started_at desc, id limit $6

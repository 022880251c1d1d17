-- The domains: registered, asleep, removed, and deleted.

-- name: register_domain
-- A domain that is being deleted is not taken back. What was sent to a name that nobody has is not the new domain's.
with swept as (
  delete from mailbox where domain = $1 and not exists (select from domains where domain = $1)
), swept_timers as (
  delete from timers where domain = $1 and not exists (select from domains where domain = $1)
), swept_schedules as (  -- what a removed domain has missed is not made up for
  delete from schedules where domain = $1 and not exists (
    select from domains where domain = $1 and state in ('active', 'asleep'))
)
insert into domains (domain, partitions, spec, kinds, home, code) values ($1, $2, $3, $4::text[], $5, $6)
on conflict (domain) do update
  set spec = excluded.spec, kinds = excluded.kinds, home = excluded.home, code = excluded.code, updated_at = now(),
      state = 'active', asleep_after = null, asleep_with = null, asleep_after_event = null, refusal = null
  where domains.state <> 'deleting'
returning partitions

-- name: all_domains
select domain, partitions, spec::text as spec, kinds, home, code, hosts, state from domains
where $1 or state in ('active', 'asleep')
order by domain

-- name: put_others_to_sleep
-- A message may have its number by now and not be committed: what waits is counted as well.
update domains d set state = 'asleep', asleep_after_event = $2, asleep_after = s.last_value,
  asleep_with = (select upto from waits_for_sleeper(d.domain, s.last_value))
from (select last_value from mailbox_seq offset 0) s  -- a sequence itself cannot be locked
where d.domain <> $1 and d.state = 'active'

-- name: asleep_after_event
select asleep_after_event from domains where domain = $1 and state = 'asleep'

-- name: wake_all_domains
update domains set state = 'active', asleep_after = null, asleep_with = null, asleep_after_event = null where state = 'asleep'

-- name: wake_domain
update domains set state = 'active', asleep_after = null, asleep_with = null, asleep_after_event = null where domain = $1 and state = 'asleep'

-- name: wake_if_due
update domains d set state = 'active', asleep_after = null, asleep_with = null, asleep_after_event = null
from (
  select case
    when w.newer > 0 then 'a message was sent to it'
    when w.upto > a.asleep_with then 'something was sent to it as it fell asleep'
    when exists (select from timers where domain = $1 and due_at <= now()) then 'a message is due'
    when exists (select from schedules where domain = $1 and next_at <= now()) then 'a schedule is due'
    when exists (select from promises where domain = $1 and status = 'pending' and due_at <= now())
      then 'a wait is over'
    when exists (select from cancellations c join turns t
                   on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
                     and t.header ->> 'undoes' is null
                 where c.ended_at is null and t.domain = $1)
      then 'a task that it works for was cancelled'
    end as why
  from domains a, waits_for_sleeper(a.domain, a.asleep_after) w
  where a.domain = $1 and a.state = 'asleep'
  offset 0  -- or all of it is asked twice: whether, and why
) due
where d.domain = $1 and d.state = 'asleep' and due.why is not null
returning due.why

-- name: unregister_domain
-- Nothing happens while it has tasks that have not ended, unless $2.
update domains set state = 'removed', asleep_after = null, asleep_with = null, asleep_after_event = null, hosts = 0, updated_at = now()
where domain = $1 and state in ('active', 'asleep')
  and ($2 or not exists (select from tasks where domain = $1 and finished_at is null))

-- name: begin_deleting_domain
-- Looks for tasks once more, unless $2: one may have been on its way in when the domain was removed.
update domains set state = 'deleting', updated_at = now() where domain = $1 and state = 'removed'
  and ($2 or not exists (select from tasks where domain = $1 and finished_at is null))

-- name: fail_asks_of_domain
-- What agents of other domains have asked of those of domain $1, and wait for; $2 is the error that they are told.
with failed as (
  update promises p set status = 'failed', value = $2::json, settled_by = 'external/operator', settled_at = now()
  where p.kind = 'ask' and p.status = 'pending' and p.domain <> $1 and starts_with(p.target, $1 || '/')
  returning p.*
)
select w.domain, w.tenant, w.partition, w.agent from wake_owners(array(select f::promises from failed f)) w

-- name: children_of_others
-- The tasks of domain $1 that have not ended, or have not begun, and whose parents are led in other domains.
select t.tenant, t.domain || '/' || t.id as task,
       split_part(t.parent, '/', 1) || '/task/' || split_part(t.parent, '/', 2) as leader
from tasks t
where t.domain = $1 and t.finished_at is null and split_part(t.parent, '/', 1) <> $1
union
select m.tenant, m.domain || '/' || split_part(m.agent, '/', 2), m.header ->> 'sender'
from mailbox m
where m.domain = $1 and m.header ->> 'type' = 'callboard.task_submitted.v1'
  and split_part(m.header ->> 'sender', '/', 1) <> $1

-- name: domain_deletions
-- A statement for each table that holds rows of domains; $1 is the domain, $2 how many rows go at once.
select regexp_replace(c.relname, '^(transitions|journal)_.*$', '\1') as name,
       format('delete from %1$I where ctid = any (array(select ctid from %1$I where domain = $1 limit $2))',
              c.relname) as statement
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attname = 'domain' and not a.attisdropped
where n.nspname = 'callboard' and c.relkind = 'r' and c.relname <> 'domains'
order by c.relname

-- name: forget_coordinator
delete from coordinators where name = $1

-- name: forget_domain
delete from domains where domain = $1 and state = 'deleting'

-- name: add_suspects
update domains set suspect = array(select distinct p from unnest(suspect || $2::int[]) p order by p) where domain = $1

-- name: pause_domain
insert into pauses (domain, by, why) values ($1, $2, $3) on conflict do nothing returning true

-- name: resume_domain
update pauses set resumed_at = now(), resumed_by = $2
where domain = $1 and task is null and resumed_at is null returning true

-- name: paused_domains
select domain, by, why, at from pauses where task is null and resumed_at is null order by domain

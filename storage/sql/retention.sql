-- What is dropped when it is old enough.

-- name: retention_lock
select pg_try_advisory_lock($1)

-- name: retention_unlock
select pg_advisory_unlock($1)

-- name: retention_cutoff
-- The first day of the oldest month that is kept.
select date_trunc('month', now()) - make_interval(months => $1::int)

-- name: retention_old_months
-- Monthly tables that end before the cut-off, with their size and the statistics' count of rows. A month of the
-- journal is kept while a turn that began before its end is open.
select c.relname as name, right(c.relname, 6) as month, p.relname = 'transitions' as is_history, pg_total_relation_size(c.oid) as bytes,
       case when p.relname = 'transitions' then greatest(c.reltuples, 0)::bigint else 0 end as transitions
from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
where p.oid in ('callboard.transitions'::regclass, 'callboard.journal'::regclass)
  and c.relname ~ '_[0-9]{6}$' and to_date(right(c.relname, 6), 'YYYYMM') < $1::timestamptz
  and (p.relname = 'transitions' or not exists (
    select from turns where to_timestamp(began_at) < to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month'))
order by 1

-- name: retention_astray_count
select count(*) from transitions_default where at < $1::timestamptz

-- name: retention_astray_delete
-- As a month's table goes: anchors first.
with gone as (
  delete from transitions_default where at < $1::timestamptz returning domain, tenant, agent, version, hash
)
insert into history_anchors as h (domain, tenant, agent, version, hash)
  select distinct on (domain, tenant, agent) domain, tenant, agent, version, hash
  from gone order by domain, tenant, agent, version desc
  on conflict (domain, tenant, agent) do update
  set version = excluded.version, hash = excluded.hash, dropped_at = excluded.dropped_at
  where h.version < excluded.version

-- name: retention_astray_journal_delete
delete from journal_default where at < $1::timestamptz and not exists (
  select from turns where to_timestamp(began_at) <= journal_default.at)

-- name: retention_missing_months
-- The months from this one to $1 ahead that have no table.
select h.parent, to_char(m, 'YYYYMM') as month, m::date as first, (m + interval '1 month')::date as next
from generate_series(date_trunc('month', now()), date_trunc('month', now()) + make_interval(months => $1::int),
                     interval '1 month') m,
  unnest(array['transitions', 'journal']) as h(parent)
where to_regclass('callboard.' || h.parent || '_' || to_char(m, 'YYYYMM')) is null
order by 1, 2

-- name: retention_promises_count
select count(*) from promises where status <> 'pending' and settled_at < $1::timestamptz
  and not exists (select from turns t where t.domain = promises.domain and t.tenant = promises.tenant
                                        and t.agent = promises.agent and t.turn = promises.turn)

-- name: retention_promises_delete
delete from promises where status <> 'pending' and settled_at < $1::timestamptz
  and not exists (select from turns t where t.domain = promises.domain and t.tenant = promises.tenant
                                        and t.agent = promises.agent and t.turn = promises.turn)

-- name: retention_ledger_count
-- Calls whose outcome is known, of messages that nobody can handle again: another turn would look for them.
select count(*) from ledger l
where l.ended_at < $1::timestamptz and l.status not in ('started', 'unknown') and not exists (
  select from (
    select domain, tenant, message from dead_letters
    union all select domain, tenant, id from mailbox
    union all select domain, tenant, (header ->> 'id')::uuid from turns
  ) m where m.domain = l.domain and m.tenant = l.tenant and m.message = l.message)

-- name: retention_ledger_delete
delete from ledger l
where l.ended_at < $1::timestamptz and l.status not in ('started', 'unknown') and not exists (
  select from (
    select domain, tenant, message from dead_letters
    union all select domain, tenant, id from mailbox
    union all select domain, tenant, (header ->> 'id')::uuid from turns
  ) m where m.domain = l.domain and m.tenant = l.tenant and m.message = l.message)

-- name: retention_seen_count
select count(*) from seen where expires_at < now()

-- name: retention_seen_delete
delete from seen where ctid = any (array(select ctid from seen where expires_at < now() limit $1))

-- name: retention_hosts_count
select count(*) from (
  select ended_at, row_number() over (partition by domain order by epoch desc) as nth
  from hosts where ended_at is not null) ended
where ended_at < now() - make_interval(days => $1) and nth > $2

-- name: retention_hosts_delete
with gone as (
  delete from hosts where (domain, epoch) in (
    select domain, epoch from (
      select domain, epoch, ended_at, row_number() over (partition by domain order by epoch desc) as nth
      from hosts where ended_at is not null) ended
    where ended_at < now() - make_interval(days => $1) and nth > $2)
  returning domain, epoch
)
delete from heartbeats b using gone g where b.domain = g.domain and b.epoch = g.epoch

-- name: retention_cancellations_delete
-- As long as hosts read them.
delete from cancellations where ended_at < now() - interval '30 days'

-- name: retention_pauses_delete
delete from pauses where resumed_at < now() - interval '30 days'

-- name: retention_code_count
select count(*) from domain_code c
where c.added_at < now() - make_interval(hours => $1)
  and not exists (select from domains d where d.domain = c.domain and d.code = c.digest)
  and not exists (select from hosts h where h.domain = c.domain and h.code = c.digest and h.ended_at is null)

-- name: retention_code_delete
-- Code that is being registered again has been added just now, which the delete sees in the row it locks.
delete from domain_code c
where c.added_at < now() - make_interval(hours => $1)
  and not exists (select from domains d where d.domain = c.domain and d.code = c.digest)
  and not exists (select from hosts h where h.domain = c.domain and h.code = c.digest and h.ended_at is null)

-- name: retention_tasks_count
select count(*) from tasks where finished_at < $1::timestamptz

-- name: retention_tasks_delete
with gone as (
  delete from tasks where (domain, tenant, id) in (
    select domain, tenant, id from tasks where finished_at < $1::timestamptz limit $2)
  returning domain, tenant, id
), events as (
  delete from task_events e using gone g where e.domain = g.domain and e.tenant = g.tenant and e.task = g.id
), spent as (
  delete from spending s using gone g where s.domain = g.domain and s.tenant = g.tenant and s.task = g.id
), reached as (
  delete from limits_reached r using gone g where r.domain = g.domain and r.tenant = g.tenant and r.task = g.id
)
select count(*) from gone

-- name: retention_task_agents_delete
-- The agents that led tasks which are gone, once nothing waits for them and none of their history is left. A report that
-- comes later still finds an agent that knows of no task, as before that task was assigned, and its history begins anew.
with gone as (
  delete from agents a where a.updated_at < $1::timestamptz and a.ctid = any (array(
    select x.ctid from agents x
    where x.agent > 'task/' and x.agent < 'task0' and x.updated_at < $1::timestamptz
      and not exists (
        select from tasks t where t.domain = x.domain and t.tenant = x.tenant
          and t.id = case when substr(x.agent, 6) ~ '^[0-9a-f-]{36}$' then substr(x.agent, 6)::uuid end)
      and not exists (
        select from mailbox m where m.domain = x.domain and m.tenant = x.tenant and m.partition = x.partition
          and m.agent = x.agent)
      and not exists (
        select from turns t where t.domain = x.domain and t.tenant = x.tenant and t.agent = x.agent)
      and not exists (
        select from timers t where t.domain = x.domain and t.tenant = x.tenant and t.partition = x.partition
          and t.agent = x.agent)
    limit $2))
  returning a.domain, a.tenant, a.agent
), anchors as (
  delete from history_anchors h using gone g
  where h.domain = g.domain and h.tenant = g.tenant and h.agent = g.agent
)
select count(*) from gone

-- name: retention_blobs_count
with used as (
  select domain, tenant, header ->> 'blob' as digest from mailbox where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from timers where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from dead_letters where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from turns where header ->> 'blob' is not null
  union all select domain, tenant, blob from journal where blob is not null
  union all select domain, tenant, body -> 'message' -> 'header' ->> 'blob' from transitions
    where body -> 'message' -> 'header' ->> 'blob' is not null
)
select count(*) from blobs b
where b.touched_at < $1::timestamptz and not exists (
  select from used u where u.domain = b.domain and u.tenant = b.tenant and u.digest = b.digest)

-- name: retention_blobs_old
select exists (select from blobs where touched_at < $1::timestamptz)

-- name: retention_blobs_delete
-- A blob that is being sent again has been touched just now, which the delete sees in the row it locks.
with used as (
  select domain, tenant, header ->> 'blob' as digest from mailbox where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from timers where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from dead_letters where header ->> 'blob' is not null
  union all select domain, tenant, header ->> 'blob' from turns where header ->> 'blob' is not null
  union all select domain, tenant, blob from journal where blob is not null
  union all select domain, tenant, body -> 'message' -> 'header' ->> 'blob' from transitions
    where body -> 'message' -> 'header' ->> 'blob' is not null
)
delete from blobs b
where b.touched_at < $1::timestamptz and not exists (
  select from used u where u.domain = b.domain and u.tenant = b.tenant and u.digest = b.digest)

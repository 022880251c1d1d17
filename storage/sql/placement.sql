-- Hosts, their partitions and the coordinators that place them.

-- name: register_host
insert into hosts (domain, host, node, pid, machine, born, code, release, schema)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
returning epoch, extract(epoch from clock_timestamp())::float8 as now

-- name: host_ready
update hosts set ready_at = coalesce(ready_at, now()) where domain = $1 and epoch = $2 and ended_at is null

-- name: read_ownership
select owned, wanted, kept, suspect, taken, draining, ended_at is not null as ended, ended_why
from hosts where domain = $1 and epoch = $2

-- name: release_partitions
select release_partitions($1, $2, $3::int[], $4::jsonb)

-- name: keep_partitions
update hosts set kept = $3::int[] where domain = $1 and epoch = $2 and ended_at is null

-- name: note_taken
update hosts set taken = array(
  select coalesce(taken[p + 1], 0) + (p = any ($3::int[]))::int
  from generate_series(0, greatest(cardinality(taken) - 1, (select max(p) from unnest($3::int[]) p))) p order by p)
where domain = $1 and epoch = $2 and ended_at is null

-- name: clear_suspects
update hosts set suspect = array(select p from unnest(suspect) p where p <> all ($3::int[]) order by p)
where domain = $1 and epoch = $2 and ended_at is null

-- name: end_host
update hosts set ended_at = now(), ended_why = $3, owned = '{}', wanted = '{}', kept = '{}', suspect = '{}'
where domain = $1 and epoch = $2 and ended_at is null
returning epoch

-- name: lock_host
select ended_at is null as live, owned from hosts where domain = $1 and epoch = $2 for update

-- name: beat
insert into heartbeats (domain, epoch, at, lag_ms, blocked_by, backlog, agents, turns, rss_bytes)
values ($1, $2, now(), $3, $4, $5, $6, $7, $8)
on conflict (domain, epoch) do update
  set at = now(), lag_ms = excluded.lag_ms, blocked_by = excluded.blocked_by, backlog = excluded.backlog,
      agents = excluded.agents, turns = excluded.turns, rss_bytes = excluded.rss_bytes
returning extract(epoch from now())::float8 as now,
  (select ended_at is null from hosts where domain = $1 and epoch = $2) as live

-- name: claim_coordinator
insert into coordinators (name, epoch, node, pid, release, schema) values ($1, nextval('epochs'), $2, $3, $4, $5)
on conflict (name) do update
  set epoch = excluded.epoch, node = excluded.node, pid = excluded.pid, started_at = now(), release = excluded.release,
      schema = excluded.schema, lack = null, leased_at = null
returning epoch

-- name: find_rival
-- At work: it looks at the database several times a second. A connection that a dead machine has left does not.
select node from coordinators
where name = $1 and node <> all ($2::text[]) and exists (
  select from pg_stat_activity
  where datname = current_database() and application_name = $3
    and (state = 'active' or state_change > clock_timestamp() - interval '3 seconds'))

-- name: report_rival
update coordinators set rival = $2, rival_at = now() where name = $1

-- name: report_lack
update coordinators set lack = $2::json where name = $1

-- name: report_refusal
-- Returns a row where it is news. Of code that is not the newest any more it says nothing.
update domains set refusal = $3 where domain = $1 and code = $2 and refusal is distinct from $3 returning domain

-- name: forget_refusals
-- A coordinator that begins may be of another release, and finds out by itself.
update domains set refusal = null where refusal is not null and ($1 = 'master' or domain = $1)

-- name: find_lack
select lack::text from coordinators where name = $1

-- name: lock_lease
select pg_advisory_xact_lock(hashtext('callboard.lease'))

-- name: settle_lease
with other as (
  select name from coordinators
  where name <> $1 and leased_at > clock_timestamp() - make_interval(secs => $3) and (urgent or not $4)
  order by urgent desc, name limit 1
), mine as (
  update coordinators
  set leased_at = case when $2 and not exists (select from other) then clock_timestamp() end, urgent = $4
  where name = $1 and (leased_at is not null or ($2 and not exists (select from other)))
  returning name, leased_at
)
select coalesce((select name from mine where leased_at is not null), (select name from other))

-- name: lock_coordinator
select epoch = $2 as mine from coordinators where name = $1 for update

-- name: live_hosts
select h.epoch, h.host, h.node, h.pid, h.code, h.release, h.owned, h.wanted, h.kept, h.suspect, h.draining, h.ready_at is not null as ready,
       extract(epoch from now() - h.started_at)::float8 as age_s,
       extract(epoch from now() - coalesce(b.at, h.started_at))::float8 as silent_s,
       extract(epoch from b.at)::float8 as beat_at,
       b.lag_ms, b.blocked_by, coalesce(b.backlog, 0) as backlog, coalesce(b.agents, 0) as agents,
       coalesce(b.turns, 0) as turns, coalesce(b.rss_bytes, 0) as rss_bytes
from hosts h left join heartbeats b using (domain, epoch)
where h.domain = $1 and h.ended_at is null
order by h.epoch

-- name: set_wanted
update hosts set wanted = $3::int[], draining = $4 where domain = $1 and epoch = $2 and ended_at is null

-- name: grant_partitions
update hosts set
  owned = array(select distinct p from unnest(owned || $3::int[]) p order by p),
  suspect = array(select distinct p from unnest(suspect || $4::int[]) p order by p)
where domain = $1 and epoch = $2 and ended_at is null
  and not exists (
    select from hosts o where o.domain = $1 and o.epoch <> $2 and o.ended_at is null and o.owned && $3::int[])
returning epoch

-- name: terminate_backends
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name in ($1, left($1 || ' settle', 63)) and pid <> pg_backend_pid()

-- name: lock_domain
select partitions, suspect, hosts, code, spec::text as spec from domains where domain = $1 for update

-- name: set_suspects
update domains set suspect = array(select distinct p from unnest($2::int[]) p order by p) where domain = $1

-- name: set_host_target
update domains set hosts = $2 where domain = $1 and hosts <> $2 and state = 'active' returning hosts

-- name: schema_number
select max(number) from migrations

-- name: running_with_other_schema
-- By their connections: of what a crash has left in the tables nothing runs.
with running as (select application_name as application from pg_stat_activity where datname = current_database())
select 'host ' || host as what, release, schema from hosts
where ended_at is null and schema <> $1
  and left('callboard-host ' || epoch || ' ' || domain, 63) in (select application from running)
union all
select 'coordinator ' || name, release, schema from coordinators
where schema <> $1
  and case when name = 'master' then 'callboard-master'
           else 'callboard-coordinator ' || case when length(name) > 41 then md5(name) else name end end
      in (select application from running)
order by 1

-- name: is_outdated
-- Whether the domain has other code than $2, or is led by another release than $3: its hosts will follow.
select d.code <> $2 or coalesce(c.release <> $3, false)
from domains d left join coordinators c on c.name = d.domain where d.domain = $1

-- name: coordinators_of_other_releases
select distinct release from coordinators where release <> $1

-- name: put_code
-- Each `run` and `up` stores it, mostly unchanged: then nothing is written. After an hour it is new again for retention,
-- which takes what is a day old and named by no domain yet; its bundle is written again only if it was damaged.
insert into domain_code as c (domain, digest, bundle) values ($1, $2, $3)
on conflict (domain, digest) do update
set bundle = case when c.bundle = excluded.bundle then c.bundle else excluded.bundle end, added_at = now()
where c.bundle <> excluded.bundle or c.added_at < now() - interval '1 hour'

-- name: get_code
select bundle from domain_code where domain = $1 and digest = $2

-- name: partition_count
select partitions, code, hosts, refusal from domains where domain = $1 and state in ('active', 'asleep')

-- name: end_coordinators
delete from coordinators

-- name: want_nothing
update hosts set wanted = '{}', draining = true where ended_at is null

-- name: what_is_owned
-- By hosts that can give it back: what a crash has left to a domain that is asleep stays as it is. `kept` is what hosts
-- that have beaten within the last $1 seconds keep because they make calls there.
select count(*) > 0 as anything,
       coalesce(sum(cardinality(h.kept)) filter (where b.at > now() - $1 * interval '1 second'), 0)::int as kept
from hosts h join domains d using (domain) left join heartbeats b using (domain, epoch)
where h.ended_at is null and h.owned <> '{}' and d.state <> 'asleep'

-- name: end_hosts_without_partitions
update hosts set ended_at = now(), ended_why = 'stopped' where ended_at is null and owned = '{}'

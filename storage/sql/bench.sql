-- What a benchmark counts.

-- name: bench_transitions
select count(*) from transitions where domain = $1

-- name: bench_figures
-- A commit is known by its transaction's time. A hop from outside has no turn of a sender to begin at.
with measured as (
  select at, (body ->> 'at')::float8 - (body -> 'message' -> 'header' ->> 'sent_at')::float8 as took,
         body -> 'message' -> 'header' ->> 'sender' like 'external/%' as first
  from transitions where domain = $1 and at >= $2
)
select count(*) as hops, count(distinct at) as commits,
       extract(epoch from max(at) - $2::timestamptz)::float8 as seconds,
       1000 * percentile_cont(0.5) within group (order by took) filter (where not first) as p50_ms,
       1000 * percentile_cont(0.99) within group (order by took) filter (where not first) as p99_ms
from measured

-- name: bench_journaled
-- What turns with steps leave: an entry for each step, and a transition for each turn.
select (select count(*) from journal where domain = $1) + (select count(*) from transitions where domain = $1)

-- name: bench_steps
with entries as (
  select at, extract(epoch from at - lag(at) over (partition by turn order by number)) as took
  from journal where domain = $1 and kind = 'step' and at >= $2
), ended as (
  select at from transitions where domain = $1 and at >= $2
)
select (select count(*) from entries) as steps, (select count(*) from ended) as turns,
       (select count(*) from (select at from entries union select at from ended) c) as commits,
       (select extract(epoch from max(at) - $2::timestamptz) from ended)::float8 as seconds,
       (select 1000 * percentile_cont(0.5) within group (order by took::float8) from entries) as p50_ms,
       (select 1000 * percentile_cont(0.99) within group (order by took::float8) from entries) as p99_ms

-- name: bench_asks
with entries as (
  select at, kind, extract(epoch from at - lag(at) over (partition by turn, kind order by number)) as took
  from journal where domain = $1 and at >= $2
), ended as (
  select at, agent from transitions where domain = $1 and at >= $2
)
select (select count(*) from entries where kind = 'ask') as asks,
       (select count(*) from ended where agent like 'answerer/%') as answered,
       (select count(*) from (select at from entries union select at from ended) c) as commits,
       (select extract(epoch from max(at) - $2::timestamptz) from ended)::float8 as seconds,
       (select 1000 * percentile_cont(0.5) within group (order by took::float8) from entries
        where kind = 'ask') as p50_ms,
       (select 1000 * percentile_cont(0.99) within group (order by took::float8) from entries
        where kind = 'ask') as p99_ms

-- name: bench_fill_log
select pg_logical_emit_message(false, 'warm-up', repeat('x', 1 << 20)) from generate_series(1, $1)

-- name: bench_waiting
-- Each of the agents $2 (in the partitions $3) has $4 messages waiting: because it is paused, or ($7) because the
-- first of them has failed and is tried again tomorrow.
with waiting as (
  insert into agents (domain, tenant, agent, partition, version, schema_version, lifecycle, state, hash)
    select $1, 'default', a.agent, a.partition, 1, 1, case when $7 then 'running' else 'paused' end, '{"hops":0}',
           sha256('')
    from unnest($2::text[], $3::int[]) as a(agent, partition)
    returning agent, partition
)
insert into mailbox (domain, tenant, partition, agent, seq, id, failures, retry_at, header, payload)
  select $1, 'default', m.partition, m.agent, nextval('mailbox_seq'), gen_random_uuid(), (m.n = 1 and $7)::int,
         case when m.n = 1 and $7 then now() + interval '1 day' end, $5::json, $6::json
  from (select w.partition, w.agent, n from waiting w, generate_series(1, $4::int) n order by w.agent, n) m

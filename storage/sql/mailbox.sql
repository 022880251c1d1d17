-- What hosts read, and the commit they write.

-- name: commit_turns
select commit_turns($1, $2, $3::int[],
  $4::text[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bytea[], $11::bytea[],
  $12::int[], $13::bigint[], $14::int[], $15::text[], $16::text[],
  $17::text[], $18::text[], $19::int[], $20::text[], $21::boolean[], $22::uuid[], $23::uuid[], $24::text[],
  $25::text[], $26::jsonb, $27::text[]) as numbers

-- name: commit_journal
-- Flushes that send nothing, in a group without turns.
select commit_journal($1, $2, $3::int[], $4, $5, $6, $7, $8::text[], $9::int[], $10::text[], $11::bigint[],
  $12::uuid[], $13::text[], $14::int[], $15::int[], $16::boolean[], $17::float8[], $18::int[], $19::text[],
  $20::text[], $21::text[], $22::boolean[], $23::text[], $24::text[], $25::real[], $26::text[], $27::int[],
  $28::text[], $29::bigint[], $30::jsonb, $31::text[], $32::text[], $33::text[], $34::uuid[], $35::boolean[],
  $36::boolean[]),
  case when $37::jsonb is not null then write_ledger($1, $2, $37) end, null as numbers

-- name: commit_step
-- One recorded call of one turn alone.
select commit_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16), null as numbers

-- name: commit_turns_and_journal
select commit_journal($1, $2, $3::int[], $28, $29, $30, $31, $32::text[], $33::int[], $34::text[],
  $35::bigint[], $36::uuid[], $37::text[], $38::int[], $39::int[], $40::boolean[], $41::float8[], $42::int[],
  $43::text[], $44::text[], $45::text[], $46::boolean[], $47::text[], $48::text[], $49::real[], $50::text[],
  $51::int[], $52::text[], $53::bigint[], $54::jsonb, $55::text[], $56::text[], $57::text[], $58::uuid[],
  $59::boolean[], $60::boolean[]),
  case when $61::jsonb is not null then write_ledger($1, $2, $61) end,
  commit_turns($1, $2, $3::int[],
  $4::text[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bytea[], $11::bytea[],
  $12::int[], $13::bigint[], $14::int[], $15::text[], $16::text[],
  $17::text[], $18::text[], $19::int[], $20::text[], $21::boolean[], $22::uuid[], $23::uuid[], $24::text[],
  $25::text[], $26::jsonb, $27::text[]) as numbers

-- name: turn_committed
-- By its hash: another host may have reached that version meanwhile, with another turn.
select exists (
  select from transitions where domain = $1 and tenant = $2 and agent = $3 and version = $4 and hash = $5)

-- name: turn_flushed
-- Whether an open turn counts as much as it did once this was written; the caller's fence keeps others away.
select exists (
  select from turns where domain = $1 and tenant = $2 and agent = $3 and turn = $4 and recorded >= $5)

-- name: load_turns
-- A page of a partition's open turns; see the function.
select tenant, agent, seq, failures, trials, retry_at, header, payload from load_turns($1, $2, $3, $4, $5, $6)

-- name: load_journal
select e.number, e.key, e.kind, e.name, e.ok, e.value::text as value, e.blob, e.took_ms
from journal e
where e.domain = $1 and e.tenant = $2 and e.agent = $3 and e.turn = $4 and e.at >= to_timestamp($5)
order by e.number

-- name: load_turn
select seq, turn::text as turn, header::text as header, payload::text as payload, failures, trials,
       extract(epoch from retry_at)::float8 as retry_at, began_at, waiting, recorded
from turns where domain = $1 and tenant = $2 and agent = $3

-- name: load_promises
select id::text as id, key, kind, name, status, target, extract(epoch from due_at)::float8 as due_at, given_up
from promises where domain = $1 and tenant = $2 and agent = $3 and turn = $4
order by created_at, id

-- name: settle_due
select distinct tenant, partition, agent from settle_due($1, $2, $3::int[], $4)

-- name: settle_promise
select agent, partition from settle_promise($1, $2, $3, $4, $5, $6, $7)

-- name: wait_edges
select domain, tenant, agent, id::text as id, target, made_at, gates::text as gates, task, branch, branches
from wait_edges($1::text[], $2::text[], $3::text[], $4)

-- name: refuse_ask
select domain, partition, tenant, agent, gone::text as gone, moves
from refuse_ask($1::text[], $2::text[], $3::uuid[], $4, $5)

-- name: chained_asks
select tenant, agent, id::text as id from chained_asks($1, $2::int[], $3, $4, $5)

-- name: find_mail
select min(seq) from mailbox
where domain = $1 and tenant = $2 and partition = $3 and agent = $4 and seq > 0 and id = $5

-- name: tenants_with_mail
-- A loose index scan: one probe for each tenant.
with recursive t as (
  (select tenant from mailbox where domain = $1 order by tenant limit 1)
  union all
  select (select m.tenant from mailbox m where m.domain = $1 and m.tenant > t.tenant order by m.tenant limit 1)
  from t where t.tenant is not null
)
select tenant from t where tenant is not null

-- name: load_mail
-- A page of a partition; see the function.
select agent, seq, failures, trials, retry_at, header, payload, more
from load_mail($1, $2, $3, $4, $5, $6, $7, $8)

-- name: load_agent_mail
-- Of each mailbox the turn that is open and has something to do, then the first messages; only control messages where
-- the bound is 0. Paused or not: its owner knows better than the table, which says "paused" until a resumption has
-- committed.
select b.place, m.*
from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::bigint[], $6::int[], $7::bigint[])
  with ordinality as b(domain, tenant, partition, agent, below, messages, bytes, place),
lateral (
  select true as open, t.seq, t.failures, t.trials, extract(epoch from t.retry_at)::float8 as retry_at,
         t.header::text as header, t.payload::text as payload, false as more
  from turns t
  where t.domain = b.domain and t.tenant = b.tenant and t.agent = b.agent and not t.waiting and b.below <> 0
  union all
  select false, seq, failures, trials, retry_at, header, payload, more
  from first_mail(b.domain, b.tenant, b.partition, b.agent, b.below, b.messages, b.bytes)
) m

-- name: mail_heads
select tenant, partition, agent, seq from mail_heads($1, $2, $3, $4, $5::int[], $6)

-- name: load_states
select n, tenant, agent, version, schema_version, lifecycle, state, hash, turn
from load_states($1, $2::text[], $3::text[], $4)

-- name: fire_timers
select distinct tenant, partition, agent from fire_timers($1, $2, $3::int[], $4)

-- name: read_cancellations
-- Those that have not ended; the first time also the newest of the others, whose messages may still be on their way.
(select number, tenant, domain || '/' || task as task, why, true as is_open from cancellations where ended_at is null)
union all
(select number, tenant, domain || '/' || task, why, false from cancellations
 where $1 and ended_at > now() - interval '30 days' order by number desc limit $2)

-- name: read_pauses
-- Of a domain as a whole the row that has neither tenant nor task.
select coalesce(tenant, '') as tenant, coalesce(domain || '/' || task, '') as task
from pauses where resumed_at is null and (task is not null or domain = $1)

-- name: stop_cancelled
select tenant, agent, partition from stop_cancelled($1, $2, $3::int[])

-- name: host_has_stopped
update hosts set stopped = $3::bigint[] where domain = $1 and epoch = $2 and ended_at is null

-- name: end_cancellations
select distinct tenant, partition, agent from end_cancellations($1, $2, $3::int[])

-- name: put_blob
insert into blobs (domain, tenant, digest, bytes) values ($1, $2, $3, $4)
on conflict (domain, tenant, digest) do update set touched_at = now()

-- name: get_blob
select bytes from blobs where domain = $1 and tenant = $2 and digest = $3

-- name: read_dead_letter
select d.header::text as header_json, d.payload::text as payload, d.reason,
       case when p.task is null or d.header ->> 'undoes' is not null then null
            when t.id is null then 'forgotten'
            when t.finished_at is not null or t.status = 'cancelling' then t.status end as task_ended
from dead_letters d
  cross join lateral (select d.header ->> 'task' as task, split_part(d.header ->> 'task', '/', 2) as id) p
  left join tasks t on t.domain = split_part(p.task, '/', 1) and t.tenant = d.tenant
    and t.id = case when p.id ~ '^[0-9a-f-]{36}$' then p.id::uuid end
where d.domain = $1 and d.tenant = $2 and d.agent = $3 and d.id = $4

-- name: accept_messages
select domain, tenant, partition, agent, seq, header::text as header, payload::text as payload
from accept_messages($1::text[], $2, $3::text[], $4::text[], $5::int[], $6::text[], $7::boolean[], $8::uuid[],
                     $9::text[], $10::text[])

-- name: require_fence
select require_fence($1, $2, $3::int[])

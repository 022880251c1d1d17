-- What hosts read, and the commit they write.

-- name: commit_turns
select commit_turns($1, $2, $3::int[],
  $4::text[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bytea[], $11::bytea[],
  $12::int[], $13::bigint[], $14::int[], $15::text[], $16::text[],
  $17::int[], $18::text[], $19::int[], $20::text[], $21::boolean[], $22::uuid[], $23::text[], $24::text[],
  $25::jsonb)

-- name: turn_committed
-- By its hash: another host may have reached that version meanwhile, with another turn.
select exists (
  select from transitions where domain = $1 and tenant = $2 and agent = $3 and version = $4 and hash = $5)

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
-- Paused or not: its owner knows better than the table, which says "paused" until a resumption has committed.
select seq, failures, trials, retry_at, header, payload, more from first_mail($1, $2, $3, $4, $5, $6, $7)

-- name: mail_heads
select tenant, partition, agent, seq from mail_heads($1, $2, $3, $4, $5::int[], $6)

-- name: load_states
select s.tenant, s.agent, s.version, s.schema_version, s.lifecycle, s.state::text as state, s.hash
from unnest($2::text[], $3::text[]) as k(tenant, agent)
cross join lateral (  -- by key, one by one: as a join, it reads the whole table
  select * from agents a where a.domain = $1 and a.tenant = k.tenant and a.agent = k.agent offset 0
) s

-- name: fire_timers
select tenant, agent, partition, seq, failures, trials,
       extract(epoch from retry_at)::float8 as retry_at, header::text as header, payload::text as payload
from fire_timers($1, $2, $3::int[], $4) order by seq

-- name: put_blob
insert into blobs (domain, tenant, digest, bytes) values ($1, $2, $3, $4)
on conflict (domain, tenant, digest) do update set touched_at = now()

-- name: get_blob
select bytes from blobs where domain = $1 and tenant = $2 and digest = $3

-- name: read_dead_letter
select header::text as header, payload::text as payload from dead_letters
where domain = $1 and tenant = $2 and agent = $3 and id = $4

-- name: accept_messages
select domain, tenant, partition, agent, seq, header::text as header, payload::text as payload
from accept_messages($1::text[], $2, $3::text[], $4::text[], $5::int[], $6::text[], $7::boolean[], $8::uuid[],
                     $9::text[], $10::text[])

-- name: require_fence
select require_fence($1, $2, $3::int[])

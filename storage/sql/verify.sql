-- Whether histories are what they were. The hashes are computed here, so that no body leaves the database.

-- name: verify_links
-- A page of a domain's transitions after (tenant, agent, version) up to (tenant, agent): whether each hashes to what is
-- stored with it, whether the task that stands beside its body is not the one in it, the first of its calls that the
-- journal has otherwise, or lacks, and whether its payload was in a blob that is gone.
select l.tenant, l.agent, l.version, l.prev, l.hash, l.sound, l.other_task, l.turn, c.key as call, c.gone as call_gone,
       l.blob is not null and not exists (
         select from blobs x where x.domain = $1 and x.tenant = l.tenant and x.digest = l.blob) as blob_gone
from (
  select b.*,
         b.sound and (b.task is not null or strpos(b.text, '"task":"') > 0)
           and b.task is distinct from b.text::json -> 'message' -> 'header' ->> 'task' as other_task,
         case when b.sound and strpos(b.text, '"calls":[{') > 0 then b.text::json ->> 'turn' end as turn,
         case when b.sound and strpos(b.text, '"blob":"') > 0
           then b.text::json -> 'message' -> 'header' ->> 'blob' end as blob
  from (
    select tenant, agent, version, task, prev, hash, t.text, sha256(prev || convert_to(t.text, 'UTF8')) = hash as sound
    from transitions, lateral (select body::text as text offset 0) t
    where domain = $1 and (tenant, agent, version) > ($2, $3, $4) and (tenant, agent) <= ($5, $6)
    order by tenant, agent, version limit $7
  ) b
) l
left join lateral (
  select x.call ->> 'key' as key, j.key is null as gone
  from json_array_elements(l.text::json -> 'calls') with ordinality as x(call, n)
  left join (
    select number, key, kind, name, ok, blob, coalesce(blob, encode(sha256(convert_to(value::text, 'UTF8')), 'hex')) as digest
    from journal where domain = $1 and tenant = l.tenant and agent = l.agent and turn = l.turn::uuid
  ) j on j.number = (x.call ->> 'number')::int
  where (j.key, j.kind, j.name, j.ok, j.digest)
        is distinct from (x.call ->> 'key', x.call ->> 'kind', x.call ->> 'name', (x.call ->> 'ok')::boolean,
                          x.call ->> 'value')
     or (j.blob is not null and not exists (
           select from blobs v where v.domain = $1 and v.tenant = l.tenant and v.digest = j.blob))
  order by j.key is null, x.n limit 1  -- what is gone may be older than the retention
) c on l.turn is not null
order by l.tenant, l.agent, l.version

-- name: verify_tips
-- A page of a domain's agents from (tenant, agent) to (tenant, agent), with what the newest transition says of the state,
-- and the newest of those that retention has dropped.
select tenant, agent, a.version, a.hash, h.version as dropped, h.hash as dropped_hash, h.dropped_at,
       coalesce(encode(sha256(convert_to(state::text, 'UTF8')), 'hex'), '') as state_hash,
       coalesce((select t.body ->> 'state_hash' from transitions t
                 where t.domain = a.domain and t.tenant = a.tenant and t.agent = a.agent and t.version = a.version
                 limit 1), '') as recorded_state_hash
from agents a
left join lateral (
  select version, hash, dropped_at from history_anchors
  where domain = a.domain and tenant = a.tenant and agent = a.agent offset 0
) h on true
where domain = $1 and (tenant, agent) >= ($2, $3) and (tenant, agent) <= ($4, $5)
order by tenant, agent limit $6

-- name: verify_count
select count(*) from agents where domain = any ($1::text[])

-- name: verify_anchor
select version, hash, dropped_at from history_anchors where domain = $1 and tenant = $2 and agent = $3

-- name: verify_hold
-- Retention waits for the page, and the page for retention, ahead of its snapshot: it sees both what was dropped and what
-- stands for it, or neither.
lock table only transitions in access share mode

-- name: verify_oldest_month
-- From when on journals are kept.
select min(to_date(right(c.relname, 6), 'YYYYMM'))::timestamptz
from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
where p.relname = 'journal' and p.relnamespace = 'callboard'::regnamespace and c.relname ~ '_[0-9]{6}$'

-- name: verify_blobs
-- A page of a domain's blobs after (tenant, digest), and whether each hashes to its name.
select tenant, digest, encode(sha256(bytes), 'hex') = digest as sound
from blobs where domain = $1 and (tenant, digest) > ($2, $3) order by tenant, digest limit $4

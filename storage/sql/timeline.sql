-- What happened when, and why.

-- name: timeline_calls
-- What turns have recorded, the first $4 entries of each; long values are cut, but for what was sent. Of what was
-- waited for: its promise, how that was settled, by whom and when.
select t.turn::text as turn, j.number, j.key, j.kind, j.name, j.ok, j.took_ms, j.at, j.blob,
       case when j.kind = 'sent' then j.value::text else left(coalesce(j.wake -> 'value', j.value)::text, 400) end as value,
       j.wake ->> 'promise' as promise, j.wake ->> 'status' as status, j.wake ->> 'by' as by,
       (j.wake ->> 'at')::float8 as settled_at, n.entries
from unnest($3::uuid[]) as t(turn)
cross join lateral (
  select count(*) as entries from journal c where c.domain = $1 and c.tenant = $2 and c.turn = t.turn) n
cross join lateral (
  select x.*, case when kind not in ('step', 'sent', 'void', 'choice') and json_typeof(value) = 'object'
                     and value ->> 'promise' is not null then value end as wake
  from journal x where domain = $1 and tenant = $2 and x.turn = t.turn order by number limit $4
) j
order by t.turn, j.number

-- name: timeline_causes
-- Where messages (their ids) came from: the transition of the sender that has sent each, and what that handled. It is
-- looked for from the time of sending on ($5, seconds since 1970), which a search by halves finds in a long history.
select w.id, t.version, t.type, t.sender
from unnest($2::text[], $3::text[], $4::text[], $5::float8[]) as w(domain, agent, id, sent_at)
cross join lateral (
  with recursive halves as (
    select (select version from transitions x
            where x.domain = w.domain and x.tenant = $1 and x.agent = w.agent order by version limit 1) as low,
           (select version from transitions x
            where x.domain = w.domain and x.tenant = $1 and x.agent = w.agent order by version desc limit 1) as high
    union all
    select case when m.at < to_timestamp(w.sent_at - 0.5) then m.version + 1 else h.low end,
           case when m.at < to_timestamp(w.sent_at - 0.5) then h.high else m.version end
    from halves h, lateral (
      select x.version, x.at from transitions x
      where x.domain = w.domain and x.tenant = $1 and x.agent = w.agent and x.version = (h.low + h.high) / 2 limit 1) m
    where h.low < h.high
  )
  select low from halves where low >= high limit 1
) first
cross join lateral (
  select near.version, near.body -> 'message' -> 'header' ->> 'type' as type,
         near.body -> 'message' -> 'header' ->> 'sender' as sender
  from (
    select x.version, x.body from transitions x
    where x.domain = w.domain and x.tenant = $1 and x.agent = w.agent and x.version >= first.low
    order by x.version limit 2000
  ) near
  where strpos(near.body::text, '{"id":"' || w.id || '","to":') > 0 limit 1
) t

-- name: timeline_of_task
-- The turns of tasks, wherever they were, from its beginning on: without payloads and states, which may be large.
select t.domain || '/' || t.agent as address, t.version, t.at, (b.message -> 'header')::text as header,
       json_build_object('decision', b.decision, 'lifecycle', b.lifecycle, 'at', b.at, 'began', b.began,
                         'failures', b.failures, 'turn', b.turn, 'notes', b.notes, 'calls', b.calls,
                         'sends', b.sends)::text as body
from (
  select o.* from unnest($2::text[]) as r(ref) cross join lateral (
    select domain, agent, version, at, body from transitions where tenant = $1 and task = r.ref
    order by at, domain, agent, version limit $3) o
  order by at, domain, agent, version limit $3
) t
cross join lateral json_to_record(t.body)
  as b(decision text, lifecycle text, at float8, began float8, failures int, turn text, message json, notes json,
       calls json, sends json)
order by t.at, t.domain, t.agent, t.version

-- name: timeline_of_task_count
-- How many there are, up to a limit.
select count(*) from (
  select from unnest($2::text[]) as r(ref) join transitions on tenant = $1 and task = r.ref limit $3) t

-- name: timeline_open_of_task
-- The turns of tasks that have not ended.
select domain || '/' || agent as address from turns where tenant = $1 and (header ->> 'task') collate "C" = any ($2::text[])
order by began_at limit $3

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

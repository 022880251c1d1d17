-- The schedules of domains.

-- name: read_schedules
select extract(epoch from now())::float8 as now, s.name, s.cron, s.timezone, s.recipient, s.catch_up,
       extract(epoch from s.next_at)::float8 as next_at, extract(epoch from s.last_at)::float8 as last_at
from (select $1::text as domain) d left join schedules s using (domain) order by s.name

-- name: keep_schedules
select keep_schedules($1, $2, $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[])

-- name: fire_schedule
select seq from fire_schedule($1, $2, $3, $4, $5, $6::text[], $7, $8, $9, $10, $11::uuid[], $12::text[], $13)

-- name: list_schedules
select domain, name, cron, timezone, recipient, catch_up, next_at, last_at
from schedules where ($1::text is null or domain = $1) order by domain, next_at, name

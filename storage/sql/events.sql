-- Events from outside.

-- name: event_cursor
select incarnation, seq from event_cursors where domain = $1

-- name: accept_events
select id::text as id, seq from accept_events($1, $2, $3, $4, $5::text[], $6, $7::text[], $8::text[], $9::int[],
  $10::text[], $11::boolean[], $12::uuid[], $13::text[], $14::text[], $15::jsonb)

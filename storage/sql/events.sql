-- Events from outside.

-- name: event_cursor
select incarnation, seq, at_ns from event_cursors where domain = $1

-- name: event_cursors
select domain, seq from event_cursors

-- name: accept_events
select id::text as id, seq from accept_events($1, $2, $3, $4, $5, $6::text[], $7, $8::text[], $9::text[], $10::int[],
  $11::text[], $12::boolean[], $13::uuid[], $14::text[], $15::text[], $16::jsonb)

-- What comes in from outside.

-- name: accept_from_outside
select domain, partition, id::text as id, seq
from accept_messages($1::text[], $2, $3::text[], $4::text[], $5::int[], $6::text[], $7::boolean[], $8::uuid[],
                     $9::text[], $10::text[])

-- name: rooms
select rooms($1, $2::text[], $3::int[], $4::text[], $5, $6, $7)

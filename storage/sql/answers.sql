-- Answers of models that gateways share.

-- name: find_answer
-- Of the model as it is now; with $4 also one that holds no longer, whose `holds_s` is then below 0.
select target, made_for, body, extract(epoch from holds_until - now())::float8 as holds_s
from model_answers
where tenant = $1 and key = $2 and revision = $3 and case when $4 then kept_until else holds_until end > now()

-- name: keep_answers
select keep_answers($1, $2, $3, $4, $5, $6, $7, make_interval(secs => $8), make_interval(secs => $9), $10, $11, $12)

-- name: purge_answers
select purge_answers($1)

SELECT (SELECT count(*) FROM journal),
       (SELECT count(DISTINCT (turn, number)) FROM journal),
       (SELECT count(*) FROM turns),
       (SELECT extract(epoch FROM max(at) - $1::timestamptz)::float8 FROM transitions),
       (SELECT count(*) FROM (SELECT at FROM journal UNION SELECT at FROM transitions) c)

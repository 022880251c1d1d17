WITH links AS (
    SELECT version, prev, hash, body,
           lag(hash, 1, '') OVER chain AS expected_prev,
           row_number() OVER chain AS expected_version
      FROM transitions WINDOW chain AS (PARTITION BY domain, tenant, agent ORDER BY version)
)
SELECT (SELECT count(*) FROM transitions),
       (SELECT sum(version)::bigint FROM agents),
       (SELECT count(*) FROM mailbox),
       (SELECT count(*) FROM links
         WHERE prev <> expected_prev OR version <> expected_version
            OR hash <> sha256(prev || convert_to(body::text, 'UTF8')))

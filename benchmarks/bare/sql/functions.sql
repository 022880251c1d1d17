CREATE FUNCTION commit_group(
    p_domain text, p_host int, p_epoch bigint, p_partitions int[],
    -- one element a turn
    t_tenant text[], t_partition int[], t_agent text[], t_seq bigint[],
    t_version bigint[], t_body text[], t_prev bytea[], t_hash bytea[],
    -- one element an agent
    a_tenant text[], a_agent text[], a_expected bigint[], a_version bigint[], a_state text[], a_hash bytea[],
    -- one element an outgoing message
    m_tenant text[], m_partition int[], m_agent text[], m_id uuid[], m_header text[], m_payload text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
    seqs bigint[];
BEGIN
    PERFORM FROM hosts
      WHERE domain = p_domain AND host = p_host AND epoch = p_epoch AND owned @> p_partitions FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = 'CB001';
    END IF;

    -- Each row is found by a subquery of its own. As a join, a mailbox that was empty when it was last
    -- analyzed makes the planner read the whole domain for each commit, whatever enable_* says.
    DELETE FROM mailbox WHERE ctid = ANY (ARRAY(
        SELECT (SELECT m.ctid FROM mailbox m
                 WHERE m.domain = p_domain AND m.tenant = t.tenant AND m.partition = t.partition
                   AND m.agent = t.agent AND m.seq = t.seq)
          FROM unnest(t_tenant, t_partition, t_agent, t_seq) AS t (tenant, partition, agent, seq)));
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> cardinality(t_seq) THEN
        RAISE EXCEPTION 'consumed % of % messages', n, cardinality(t_seq) USING ERRCODE = 'CB002';
    END IF;

    -- OFFSET 0 keeps the planner from pulling the lookup up into a join.
    UPDATE agents a SET version = s.version, state = s.state::json, hash = s.hash, updated_at = now()
      FROM (SELECT u.*, (SELECT k.ctid FROM agents k
                          WHERE k.domain = p_domain AND k.tenant = u.tenant AND k.agent = u.agent) AS tid
              FROM unnest(a_tenant, a_agent, a_expected, a_version, a_state, a_hash)
                AS u (tenant, agent, expected, version, state, hash)
            OFFSET 0) s
      WHERE a.ctid = s.tid AND a.version = s.expected;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> cardinality(a_agent) THEN
        RAISE EXCEPTION 'changed % of % agents', n, cardinality(a_agent) USING ERRCODE = 'CB003';
    END IF;

    INSERT INTO transitions (domain, tenant, agent, version, body, prev, hash)
      SELECT p_domain, t.tenant, t.agent, t.version, t.body::json, t.prev, t.hash
        FROM unnest(t_tenant, t_agent, t_version, t_body, t_prev, t_hash)
          AS t (tenant, agent, version, body, prev, hash);

    WITH sent AS (
        INSERT INTO mailbox (domain, tenant, partition, agent, id, header, payload)
          SELECT p_domain, m.tenant, m.partition, m.agent, m.id, m.header::json, m.payload::json
            FROM unnest(m_tenant, m_partition, m_agent, m_id, m_header, m_payload)
              AS m (tenant, partition, agent, id, header, payload)
          RETURNING seq
    ) SELECT array_agg(seq) INTO seqs FROM sent;
    RETURN seqs;
END $$;

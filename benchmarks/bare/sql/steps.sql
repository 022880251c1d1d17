-- What turns with steps need besides the hot tables of schema.sql; the columns are the product's.
CREATE TABLE turns (
    domain     text NOT NULL,
    tenant     text NOT NULL,
    agent      text NOT NULL,
    partition  int NOT NULL,
    seq        bigint NOT NULL,
    turn       uuid NOT NULL,
    code       text NOT NULL,
    waiting    boolean NOT NULL DEFAULT false,
    failures   smallint NOT NULL,
    trials     smallint NOT NULL,
    retry_at   timestamptz,
    last_error text,
    header     json NOT NULL,
    payload    json NOT NULL,
    began_at   double precision NOT NULL,
    PRIMARY KEY (domain, tenant, agent)
) WITH (fillfactor = 70);
CREATE INDEX turns_to_run ON turns (domain, partition) WHERE NOT waiting;

CREATE TABLE journal (
    domain  text NOT NULL,
    tenant  text NOT NULL,
    agent   text NOT NULL,
    turn    uuid NOT NULL,
    number  int NOT NULL,
    key     text NOT NULL,
    kind    text NOT NULL,
    name    text NOT NULL,
    ok      boolean NOT NULL,
    value   json NOT NULL,
    blob    text,
    took_ms real NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (at);
CREATE INDEX journal_turn ON journal (turn, number);
CREATE TABLE journal_default PARTITION OF journal DEFAULT;

CREATE FUNCTION commit_steps(
    p_domain text, p_host int, p_epoch bigint, p_partitions int[],
    -- one element a turn that begins: its message leaves the mailbox
    b_partition int[], b_agent text[], b_seq bigint[], b_turn uuid[], b_began_at float8[],
    -- one element a step
    j_agent text[], j_turn uuid[], j_number int[], j_key text[], j_value text[], j_took_ms real[],
    -- one element a turn that ends
    e_agent text[], e_seq bigint[], e_version bigint[], e_state text[], e_body text[], e_prev bytea[], e_hash bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM FROM hosts
      WHERE domain = p_domain AND host = p_host AND epoch = p_epoch AND owned @> p_partitions FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = 'CB001';
    END IF;

    -- Ends come first: the agent's next turn may begin in the same commit.
    IF cardinality(e_seq) > 0 THEN
        DELETE FROM turns WHERE ctid = ANY (ARRAY(
            SELECT (SELECT t.ctid FROM turns t
                     WHERE t.domain = p_domain AND t.tenant = 'default' AND t.agent = e.agent AND t.seq = e.seq)
              FROM unnest(e_agent, e_seq) AS e (agent, seq)));
        GET DIAGNOSTICS n = ROW_COUNT;
        IF n <> cardinality(e_seq) THEN
            RAISE EXCEPTION 'ended % of % turns', n, cardinality(e_seq) USING ERRCODE = 'CB002';
        END IF;

        UPDATE agents a SET version = s.version, state = s.state::json, hash = s.hash, updated_at = now()
          FROM (SELECT u.*, (SELECT k.ctid FROM agents k
                              WHERE k.domain = p_domain AND k.tenant = 'default' AND k.agent = u.agent) AS tid
                  FROM unnest(e_agent, e_version, e_state, e_hash) AS u (agent, version, state, hash)
                OFFSET 0) s
          WHERE a.ctid = s.tid AND a.version = s.version - 1;
        GET DIAGNOSTICS n = ROW_COUNT;
        IF n <> cardinality(e_seq) THEN
            RAISE EXCEPTION 'changed % of % agents', n, cardinality(e_seq) USING ERRCODE = 'CB003';
        END IF;

        INSERT INTO transitions (domain, tenant, agent, version, body, prev, hash)
          SELECT p_domain, 'default', e.agent, e.version, e.body::json, e.prev, e.hash
            FROM unnest(e_agent, e_version, e_body, e_prev, e_hash) AS e (agent, version, body, prev, hash);
    END IF;

    IF cardinality(b_seq) > 0 THEN
        WITH gone AS (
            DELETE FROM mailbox m USING (
                SELECT b.turn, b.began_at, (SELECT k.ctid FROM mailbox k
                         WHERE k.domain = p_domain AND k.tenant = 'default' AND k.partition = b.partition
                           AND k.agent = b.agent AND k.seq = b.seq) AS tid
                  FROM unnest(b_partition, b_agent, b_seq, b_turn, b_began_at)
                    AS b (partition, agent, seq, turn, began_at)
                OFFSET 0) o
            WHERE m.ctid = o.tid
            RETURNING m.*, o.turn, o.began_at
        )
        INSERT INTO turns (domain, tenant, agent, partition, seq, turn, code, failures, trials, header, payload,
                           began_at)
          SELECT domain, tenant, agent, partition, seq, turn, '', 0, 0, header, payload, began_at FROM gone;
        GET DIAGNOSTICS n = ROW_COUNT;
        IF n <> cardinality(b_seq) THEN
            RAISE EXCEPTION 'began % of % turns', n, cardinality(b_seq) USING ERRCODE = 'CB002';
        END IF;
    END IF;

    INSERT INTO journal (domain, tenant, agent, turn, number, key, kind, name, ok, value, took_ms)
      SELECT p_domain, 'default', j.agent, j.turn, j.number, j.key, 'step', 'following', true, j.value::json, j.took_ms
        FROM unnest(j_agent, j_turn, j_number, j_key, j_value, j_took_ms)
          AS j (agent, turn, number, key, value, took_ms);
END $$;

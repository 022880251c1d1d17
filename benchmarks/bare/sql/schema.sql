-- The product's hot tables, with the same columns.
CREATE TABLE hosts (
    domain text NOT NULL,
    host   int NOT NULL,
    epoch  bigint NOT NULL,
    owned  int[] NOT NULL,
    PRIMARY KEY (domain, host)
);

CREATE SEQUENCE mailbox_seq CACHE 1;
CREATE TABLE mailbox (
    domain    text NOT NULL,
    tenant    text NOT NULL,
    partition int NOT NULL,
    agent     text NOT NULL,
    seq       bigint NOT NULL DEFAULT nextval('mailbox_seq'),
    id        uuid NOT NULL,
    failures  smallint NOT NULL DEFAULT 0,
    trials    smallint NOT NULL DEFAULT 0,
    retry_at  timestamptz,
    last_error text,
    header    json NOT NULL,
    payload   json NOT NULL,
    PRIMARY KEY (domain, tenant, partition, agent, seq)
);

CREATE TABLE agents (
    domain     text NOT NULL,
    tenant     text NOT NULL,
    agent      text NOT NULL,
    partition  int NOT NULL,
    version    bigint NOT NULL,
    schema_version int NOT NULL DEFAULT 1,
    lifecycle  text NOT NULL DEFAULT 'running',
    state      json NOT NULL,
    hash       bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, tenant, agent)
) WITH (fillfactor = 50);

CREATE TABLE transitions (
    domain  text NOT NULL,
    tenant  text NOT NULL,
    agent   text NOT NULL,
    version bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    body    json NOT NULL,
    prev    bytea NOT NULL,
    hash    bytea NOT NULL,
    task    text
) PARTITION BY RANGE (at);
CREATE TABLE transitions_default PARTITION OF transitions DEFAULT;
CREATE INDEX ON transitions (domain, tenant, agent, version);
CREATE INDEX ON transitions (tenant, task, at) WHERE task IS NOT NULL;

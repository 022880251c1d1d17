-- Calls of tools: who called what, why, and what is known of the outcome.

create table ledger (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  id         uuid not null,                  -- also its idempotency key
  agent      text collate "C" not null,
  message    uuid not null,                  -- the message whose handling called
  task       text,
  turn       uuid not null,
  key        text collate "C" not null,      -- its place in the turn's journal
  tool       text not null,
  effect     text not null,                  -- pure, idempotent or at_most_once
  digest     text not null,                  -- of the arguments
  arguments  json,
  status     text not null,                  -- started, succeeded, failed, unknown or denied
  attempts   smallint not null,
  error      text,
  said_by    text,                           -- the person who has said what it did, where it has not
  reason     text,                           -- how that person knows, where nobody waited for it: else the answer has it
  again_by   text,                           -- the person who has last said that it had not acted, and is to be made again
  approval   uuid,                           -- the promise that a person has kept or broken
  epoch      bigint not null,                -- the host that was to make it last: as long as that is not gone, it may
  started_at timestamptz not null default now(),
  ended_at   timestamptz,
  primary key (domain, tenant, id)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
  vacuum_truncate = off
);
create index ledger_agent on ledger (domain, tenant, agent, message);
create index ledger_unknown on ledger (domain, tenant, started_at) where status in ('started', 'unknown');
create index ledger_said on ledger (tenant, id) where said_by is not null;

-- The ledger's part of a group commit. Of one call that is there several times the last row counts. One without a tool is a
-- verdict on a call of which nobody knows what it did; one without an id is on that at its place in its turn.
create function write_ledger(p_domain text, p_epoch bigint, p_calls jsonb) returns void language sql as $$
  insert into ledger (domain, tenant, id, agent, message, task, turn, key, tool, effect, digest, arguments, status,
                      attempts, error, approval, said_by, again_by, epoch, ended_at)
    select distinct on (c.tenant, c.id)
           p_domain, c.tenant, c.id, c.agent, c.message, c.task, c.turn, c.key, c.tool, c.effect, c.digest,
           c.arguments::json, c.status, c.attempts, c.error, c.approval, c.said_by, c.again_by, p_epoch,
           case when c.status not in ('started', 'unknown') then now() end
    from rows from (jsonb_to_recordset(p_calls)
      as (tenant text, id uuid, agent text, message uuid, task text, turn uuid, key text, tool text, effect text,
          digest text, arguments text, status text, attempts smallint, error text, approval uuid, said_by text,
          again_by text)) with ordinality
      as c(tenant, id, agent, message, task, turn, key, tool, effect, digest, arguments, status, attempts, error,
           approval, said_by, again_by, n)
    where c.tool is not null
    order by c.tenant, c.id, c.n desc
  on conflict (domain, tenant, id) do update
    set turn = excluded.turn, key = excluded.key, status = excluded.status, attempts = excluded.attempts,
        error = excluded.error,
        -- One that has acted is taken over by a later turn of its message: it acted when it did, and who said so has.
        approval = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                        then coalesce(excluded.approval, ledger.approval) else excluded.approval end,
        said_by = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                       then ledger.said_by else excluded.said_by end,
        reason = case when ledger.status = 'succeeded' and excluded.status = 'succeeded' then ledger.reason end,
        ended_at = case when ledger.status = 'succeeded' and excluded.status = 'succeeded'
                        then ledger.ended_at else excluded.ended_at end,
        again_by = coalesce(excluded.again_by, ledger.again_by),
        epoch = case when excluded.status = 'started' then excluded.epoch else ledger.epoch end;
  update ledger l
    set status = v.status, error = v.error, said_by = v.said_by,
        ended_at = case when v.status not in ('started', 'unknown') then now() end
    from (
      select v.*, coalesce(v.id, (
               select c.id from ledger c
               where c.domain = p_domain and c.tenant = v.tenant and c.agent = v.agent and c.turn = v.turn
                 and c.key = v.key and c.status in ('started', 'unknown') limit 1)) as call
      from jsonb_to_recordset(p_calls)
        as v(tenant text, id uuid, agent text, turn uuid, key text, tool text, status text, error text, said_by text)
      where v.tool is null offset 0  -- keeps the look-up apart from the join
    ) v
    where l.domain = p_domain and l.tenant = v.tenant and l.id = v.call and l.status in ('started', 'unknown')
$$;

-- Whether the process of a host is known to be gone: only then can nothing of it act any more.
alter table hosts add column gone_at timestamptz;
create index hosts_not_known_gone on hosts (domain, epoch) where ended_at is not null and gone_at is null;

-- What waits for people, and what they have decided: of one kind, however many of another there are.
create index promises_for_people on promises (tenant, kind, created_at, id)
  where kind in ('approval', 'outcome', 'promise') and status = 'pending';
create index promises_decided on promises (tenant, kind, settled_at desc, id)
  where kind in ('approval', 'outcome', 'promise') and status <> 'pending';

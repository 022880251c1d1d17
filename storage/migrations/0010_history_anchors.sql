-- Where the histories begin whose beginning retention has dropped.

-- The newest transition of each agent that was dropped: what is left of its history must follow that one. Without it, a
-- beginning that retention has dropped and one that somebody has cut off would look the same.
create table history_anchors (
  domain     text collate "C" not null,
  tenant     text collate "C" not null,
  agent      text collate "C" not null,
  version    bigint not null,
  hash       bytea not null,
  dropped_at timestamptz not null default now(),
  primary key (domain, tenant, agent)
);

-- Before a month's table is dropped, in the same transaction. Agents are found by their rows and not by the table's, of
-- which there are many more: one look along the index for each.
create function anchor_histories(p_month regclass) returns void language plpgsql as $$
begin
  execute format('
    insert into history_anchors as h (domain, tenant, agent, version, hash)
      select a.domain, a.tenant, a.agent, t.version, t.hash
      from agents a
      cross join lateral (
        select m.version, m.hash from %s m
        where m.domain = a.domain and m.tenant = a.tenant and m.agent = a.agent
        order by m.version desc limit 1) t
      on conflict (domain, tenant, agent) do update
      set version = excluded.version, hash = excluded.hash, dropped_at = excluded.dropped_at
      where h.version < excluded.version', p_month);
end $$;

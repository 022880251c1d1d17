-- Tasks and whole domains that are paused. Every host reads the open rows, and begins nothing of them.

create table pauses (
  domain     text collate "C" not null,   -- of the task; or the one that is paused
  tenant     text collate "C",            -- null, and no task: the whole domain
  task       uuid,
  by         text not null,
  why        text not null,
  at         timestamptz not null default now(),
  resumed_at timestamptz,
  resumed_by text
);
create unique index pauses_open on pauses (domain, tenant, task) nulls not distinct where resumed_at is null;

-- What the agents of tasks have to say of their pauses, in the transaction of a group commit; one row a task.
create function write_pauses(p_domain text, p_pauses jsonb) returns void language sql as $$
  update pauses x set resumed_at = now(), resumed_by = p.by
    from jsonb_to_recordset(p_pauses) as p(tenant text, task uuid, paused boolean, by text)
    where not p.paused and x.domain = p_domain and x.tenant = p.tenant and x.task = p.task and x.resumed_at is null;
  insert into pauses (domain, tenant, task, by, why)
    select p_domain, p.tenant, p.task, p.by, p.why
    from jsonb_to_recordset(p_pauses) as p(tenant text, task uuid, paused boolean, by text, why text)
    where p.paused
    on conflict do nothing;
$$;

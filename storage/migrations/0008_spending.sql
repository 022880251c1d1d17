-- What tasks have used of what they may, with all the tasks that they have started.

alter table tasks add column limits json;  -- of a task without a parent, by name; null: none

-- One row for each host that has worked for a task: no two hosts' commits write the same one. `task` is the one at the
-- top; `asks` are those in flight, so one host's may be below zero where another one has settled what it has asked.
create table spending (
  domain text collate "C" not null,
  tenant text collate "C" not null,
  task   uuid not null,
  epoch  bigint not null,
  hops   bigint not null,
  asks   bigint not null,
  steps  bigint not null,
  tokens bigint not null,
  cost   numeric not null,  -- a double would drift, and be above a limit by its last digit
  primary key (domain, tenant, task, epoch)
) with (fillfactor = 50);

-- The first limit that a task has gone above; its agent was told in the same transaction.
create table limits_reached (
  domain  text collate "C" not null,
  tenant  text collate "C" not null,
  task    uuid not null,
  name    text not null,
  used    numeric not null,
  allowed numeric not null,
  at      timestamptz not null default now(),
  primary key (domain, tenant, task)
);

-- What has been used for a task so far.
create function used_by(p_domain text, p_tenant text, p_task uuid)
returns table (hops bigint, asks bigint, steps bigint, tokens bigint, cost numeric) language sql stable as $$
  select coalesce(sum(s.hops), 0)::bigint, coalesce(sum(s.asks), 0)::bigint, coalesce(sum(s.steps), 0)::bigint,
         coalesce(sum(s.tokens), 0)::bigint, coalesce(sum(s.cost), 0)
  from spending s where s.domain = p_domain and s.tenant = p_tenant and s.task = p_task
$$;

-- Adds to what tasks have used, in the transaction of a group commit and under its fence. Where one is then above a
-- limit, its agent is told, once. Returns all those that are, each with the partition of its agent if that was told
-- now. What two hosts commit at the same moment they see of each other with their next commits.
create function charge_tasks(p_epoch bigint, p_spent jsonb) returns jsonb language plpgsql as $$
declare
  root record;
  reached record;
  letter uuid;
  told int;
  over jsonb;
begin
  insert into spending as s (domain, tenant, task, epoch, hops, asks, steps, tokens, cost)
    select g.domain, g.tenant, g.task, p_epoch, g.hops, g.asks, g.steps, g.tokens, g.cost
    from jsonb_to_recordset(p_spent)
      as g(domain text, tenant text, task uuid, hops bigint, asks bigint, steps bigint, tokens bigint,
           cost numeric)
    on conflict (domain, tenant, task, epoch) do update
    set hops = s.hops + excluded.hops, asks = s.asks + excluded.asks, steps = s.steps + excluded.steps,
        tokens = s.tokens + excluded.tokens, cost = s.cost + excluded.cost;
  for root in
    select g.domain, g.tenant, g.task, g.partition, t.limits
    from jsonb_to_recordset(p_spent) as g(domain text, tenant text, task uuid, partition int)
    join tasks t on t.domain = g.domain and t.tenant = g.tenant and t.id = g.task
    where t.limits is not null
    order by 1, 2, 3  -- as every host does: so none waits for one that waits for it
  loop
    insert into limits_reached (domain, tenant, task, name, used, allowed)
      select root.domain, root.tenant, root.task, l.name, l.used, (root.limits ->> l.name)::numeric
      from used_by(root.domain, root.tenant, root.task) u
      cross join lateral (
        values ('hops', u.hops), ('asks', u.asks), ('steps', u.steps), ('tokens', u.tokens), ('cost', u.cost)
      ) as l(name, used)
      where l.used > (root.limits ->> l.name)::numeric
      limit 1
      on conflict do nothing;
    told := case when found then root.partition end;
    select * into reached from limits_reached r
      where r.domain = root.domain and r.tenant = root.tenant and r.task = root.task;
    continue when not found;
    over := coalesce(over, '[]') || jsonb_build_object(
      'tenant', root.tenant, 'task', root.domain || '/' || root.task, 'limit', reached.name, 'used', reached.used,
      'allowed', reached.allowed, 'told', told);
    if told is not null then
      letter := gen_random_uuid();
      insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
        values (root.domain, root.tenant, told, 'task/' || root.task, nextval('mailbox_seq'), letter,
                json_build_object('id', letter, 'type', 'callboard.limit_reached.v1', 'sender', 'external/limits',
                                  'sent_at', extract(epoch from now())::float8,
                                  'task', root.domain || '/' || root.task),
                json_build_object('limit', reached.name, 'used', reached.used, 'allowed', reached.allowed));
    end if;
  end loop;
  return over;
end $$;

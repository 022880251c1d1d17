-- Asks of open turns as edges between agents, whoever owns them, and the refusal of one that closes a circle.

-- Whether somebody waits with it for a task: it is an ask of the agent that leads the task's parent.
create function waits_for_task(p promises) returns boolean language sql immutable as $$
  select p.kind = 'ask' and split_part(p.target, '/', 2) = 'task' and not p.given_up
$$;

-- Whether one of these tasks is to be cancelled by a message that its leader has not handled. Who leads a task has few.
create function is_told_to_end(p_tenant text, p_tasks text[]) returns boolean language sql stable as $$
  select exists (
    select from unnest(p_tasks) ref cross join lateral (
      select a.domain, a.partition, a.agent from agents a
      where a.domain = split_part(ref, '/', 1) and a.tenant = p_tenant and a.agent = 'task/' || split_part(ref, '/', 2) offset 0
    ) l cross join lateral (
      select m.header ->> 'type' as type from mailbox m
      where m.domain = l.domain and m.tenant = p_tenant and m.partition = l.partition and m.agent = l.agent offset 0
    ) m
    where m.type in ('callboard.cancel_child.v1', 'callboard.cancel_task.v1'))
$$;

-- The agents (domain/kind/key) by whose turns alone a task goes on that is waited for: those with an open turn of it, and
-- its assignee when its work lies in the mailbox behind an open turn. That it lies there is seen by its not having been
-- handled: a mailbox may be long, what a task has done before its work was handled is short. By the task's index, never by
-- the agent's: that one may have a long history. `p_leader` leads the task that has started it. One that has its result
-- waits for each of its children: for these in its place, but for those that are being cancelled. `path` leads from the task
-- that is waited for to the one that is held.
create function task_holders(p_tenant text, p_leader text, p_child uuid)
returns table (path text[], agent text) language sql stable as $$
  with recursive tree as (
    select array[c.domain || '/' || c.id] as path, c.domain || '/' || c.id as ref, c.status, c.domain, c.id, c.assignee
    from tasks c
    where c.tenant = p_tenant and c.parent = split_part(p_leader, '/', 1) || '/' || split_part(p_leader, '/', 3)
      and c.id = p_child and c.finished_at is null
    union all
    select t.path || (c.domain || '/' || c.id), c.domain || '/' || c.id, c.status, c.domain, c.id, c.assignee
    from tree t join tasks c on c.tenant = p_tenant and c.parent = t.ref
    where t.status = 'ending' and c.finished_at is null and c.status <> 'cancelling'
  ), child as (
    select path, ref, domain || '/task/' || id as leader, assignee,
           split_part(assignee, '/', 1) as domain, substr(assignee, strpos(assignee, '/') + 1) as agent
    from tree where status <> 'ending' and (cardinality(path) = 1 or not is_told_to_end(p_tenant, path))
  )
  select c.path, t.address
  from child c cross join lateral (
    select o.domain || '/' || o.agent as address from turns o
    where o.tenant = p_tenant and o.header ->> 'task' = c.ref
    offset 0
  ) t
  where t.address <> c.leader
  union
  select c.path, c.assignee
  from child c cross join lateral (
    select o.header from turns o where o.domain = c.domain and o.tenant = p_tenant and o.agent = c.agent offset 0
  ) t
  where t.header ->> 'task' is distinct from c.ref and not exists (
    select from transitions x
    where x.tenant = p_tenant and x.task = c.ref and x.domain || '/' || x.agent = c.assignee
      and x.body ->> 'decision' <> 'paused' and x.body #>> '{message,header,type}' = 'callboard.task.v1'
    offset 0)
$$;

-- Whether all that a task may still go on by lies with these agents, in an open turn or behind it: its open turns, its
-- timers, and the messages that its turns have sent and that nobody has handled. One snapshot sees them all, and each
-- commit that takes one away leaves what follows from it. Of what goes to those who lead tasks only an end counts.
create function task_is_held(p_tenant text, p_task text, p_agents text[]) returns boolean language sql stable as $$
  with leader as (
    select split_part(p_task, '/', 1) || '/task/' || split_part(p_task, '/', 2) as address
  ), past as materialized (
    select x.body from transitions x where x.tenant = p_tenant and x.task = p_task
  ), sent as (
    select s ->> 'id' as id, s ->> 'to' as address, s ->> 'type' as type
    from past, json_array_elements(past.body -> 'sends') s
    union all
    select s ->> 1, s ->> 2, s ->> 3
    from turns t
    join journal j on j.domain = t.domain and j.tenant = t.tenant and j.turn = t.turn and j.kind = 'sent',
    json_array_elements(j.value) s
    where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
  )
  select not exists (select from turns t, leader l
                     where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
                       and t.domain || '/' || t.agent <> all (p_agents || l.address))
    and not exists (select from timers t, leader l
                    where t.tenant = p_tenant and t.header ->> 'task' = p_task collate "C"
                      and t.domain || '/' || t.agent <> l.address)
    and not exists (
      select from sent s, leader l
      where s.address <> all (p_agents) and s.type not in ('callboard.wake.v1', 'callboard.call_for_bids.v1')
        and (split_part(s.address, '/', 2) <> 'task' or s.address = l.address and s.type in (
               'callboard.task_completed.v1', 'callboard.task_failed.v1', 'callboard.task_part.v1',
               'callboard.cancel_task.v1'))
        and s.id not in (select past.body #>> '{message,header,id}' from past where past.body ->> 'decision' <> 'paused'))
$$;

-- The asks that the open turns of these agents wait for. By key, one by one: statistics lag behind such tables. A wait for
-- a task leads to each of its holders, which are `branches` alternatives of those of `task`.
create function wait_edges(p_domain text[], p_tenant text[], p_agent text[], p_limit int)
returns table (
  domain text, tenant text, agent text, id uuid, target text, made_at bigint, gates json, task text, branch int,
  branches int
) language sql stable as $$
  select o.domain, o.tenant, o.agent, e.id, coalesce(h.agent, e.target), (extract(epoch from e.created_at) * 1000000)::bigint,
         e.gates, h.task, h.branch, h.branches
  from unnest(p_domain, p_tenant, p_agent) as o(domain, tenant, agent)
  cross join lateral (
    select p.id, p.target, p.message, p.created_at, p.gates
    from turns t join promises p
      on p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
    where t.domain = o.domain and t.tenant = o.tenant and t.agent = o.agent
      and p.kind = 'ask' and p.status = 'pending' and not p.given_up
    offset 0
  ) e
  left join lateral (
    select h.agent, h.path[cardinality(h.path)] as task,
           (row_number() over (partition by h.path order by h.agent))::int - 1 as branch,
           (count(*) over (partition by h.path))::int as branches
    from task_holders(o.tenant, e.target, e.message) h where split_part(e.target, '/', 2) = 'task'
  ) h on true
  limit p_limit
$$;

-- Whether an ask waits for a turn: its message lies in the mailbox of the one asked, or is that of its open turn. (One
-- that was handled is answered later, by whoever has its ref, so it waits for no turn.) A wait for a task: for turns of
-- these agents, and nobody else; nor may anybody else cancel what a task with its result waits for.
create function ask_is_held(p promises, p_agents text[]) returns boolean language sql stable as $$
  select case when child.held is not null then child.held else exists (
      select from turns o
      where o.domain = split_part(p.target, '/', 1) and o.tenant = p.tenant
        and o.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
        and ((o.header ->> 'id')::uuid = p.message
             or exists (select from mailbox m
                        where m.domain = o.domain and m.tenant = o.tenant and m.partition = o.partition
                          and m.agent = o.agent and m.seq > 0 and m.id = p.message))) end
  from (select bool_or((select bool_and(task_is_held(p.tenant, ref, p_agents)) from unnest(h.path) ref)) as held
        from (select distinct path from task_holders(p.tenant, p.target, p.message)) h) child
$$;

-- Refuses the newest (p_newest is its place) of asks that wait for each other, if all of them still do. Its asker is
-- woken, its message withdrawn; a task that was waited for is cancelled. Returns the mailboxes that have got something,
-- or else the asks that nobody waits for, or (`moves`) for a task of which others may still go on.
create function refuse_ask(
  p_domain text[], p_tenant text[], p_id uuid[], p_newest int, p_value text
) returns table (domain text, partition int, tenant text, agent text, gone uuid, moves boolean) language plpgsql as $$
#variable_conflict use_column
declare
  settled promises[];
  asked record;
  withdrawal uuid := gen_random_uuid();
  askers text[];
begin
  perform from promises p join unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id) using (domain, tenant, id)
    order by p.domain, p.tenant, p.id for update of p;  -- from here on none of them is settled
  askers := array(
    select p.domain || '/' || p.agent
    from unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id) join promises p using (domain, tenant, id));
  return query
    select null::text, null::int, null::text, null::text, e.id, coalesce(w.moves, false)
    from (select distinct * from unnest(p_domain, p_tenant, p_id)) as e(domain, tenant, id)
    left join lateral (
      select ask_is_held(p, askers) as holds, waits_for_task(p) as moves
      from promises p
      join turns t on t.domain = p.domain and t.tenant = p.tenant and t.agent = p.agent and t.turn = p.turn
      where p.domain = e.domain and p.tenant = e.tenant and p.id = e.id and p.status = 'pending' and not p.given_up
    ) w on true
    where w.holds is not true;
  if found then
    return;
  end if;

  with done as (
    update promises p set status = 'cycle', value = p_value::json, settled_by = 'external/cycle', settled_at = now()
      where p.domain = p_domain[p_newest] and p.tenant = p_tenant[p_newest] and p.id = p_id[p_newest]
      returning p.*
  )
  select array_agg(done::promises) into settled from done;
  return query select w.domain, w.partition, w.tenant, w.agent, null::uuid, false from wake_owners(settled) w;

  select a.domain, a.tenant, a.partition, a.agent, split_part(a.agent, '/', 1) = 'task' as leads into asked
    from (
      select o.domain, o.tenant, o.partition, o.agent from turns o
      union all
      select l.domain, l.tenant, l.partition, l.agent from agents l where starts_with(l.agent, 'task/')
    ) a
    where a.domain = split_part(settled[1].target, '/', 1) and a.tenant = settled[1].tenant
      and a.agent = substr(settled[1].target, length(split_part(settled[1].target, '/', 1)) + 2);
  return query
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select asked.domain, asked.tenant, asked.partition, asked.agent,
             nextval('mailbox_seq') - case when asked.leads then 0 else 4611686018427387904 end,
             withdrawal,
             json_build_object('id', withdrawal, 'type', m.type, 'sender', 'external/cycle',
                               'sent_at', extract(epoch from now())::float8),
             json_build_object('id', settled[1].message, 'reason', m.reason)
      from (values (true, 'callboard.cancel_child.v1', 'whoever waits for it waits for itself, in a circle'),
                   (false, 'callboard.withdraw.v1', '')) m(leads, type, reason)
      where m.leads = asked.leads
      returning domain, partition, tenant, agent, null::uuid, false;
end $$;

-- Of a page of a domain's promises, after the one given, the agents of these partitions that wait for one that itself
-- waits for another: whoever has owned them may have died before it looked whether they wait for each other. A wait for a
-- task may lead anywhere. Whom an ask leads to is looked up by its key: compared with all asks, each would make the look
-- longer by the others. A row without an agent is the page's last: there may be more after it.
create function chained_asks(p_domain text, p_partitions int[], p_tenant text, p_id uuid, p_limit int)
returns table (tenant text, agent text, id uuid) language sql stable as $$
  with page as materialized (
    select p.tenant, p.id, p.partition, p.agent, p.kind, p.target,
           p.status = 'pending' and not p.given_up as waits, waits_for_task(p) as waits_for_task
    from promises p
    where p.domain = p_domain and (p.tenant, p.id) > (p_tenant, p_id)
    order by p.tenant, p.id limit p_limit
  )
  select distinct p.tenant, p.agent, null::uuid
  from page p
  where p.partition = any (p_partitions) and p.kind = 'ask' and p.waits
    and (p.waits_for_task or exists (
                select from promises q
                where q.domain = split_part(p.target, '/', 1) and q.tenant = p.tenant
                  and q.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
                  and q.kind = 'ask' and q.status = 'pending' and not q.given_up
                offset 0))
  union all
  (select p.tenant, null, p.id from page p order by p.tenant desc, p.id desc limit 1)
$$;

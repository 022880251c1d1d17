-- Asks of open turns as edges between agents, whoever owns them, and the refusal of one that closes a circle.

-- The asks that the open turns of these agents wait for. By key, one by one: statistics lag behind such tables.
create function wait_edges(p_domain text[], p_tenant text[], p_agent text[], p_limit int)
returns table (domain text, tenant text, agent text, id uuid, target text, made_at bigint, gates json)
language sql stable as $$
  select o.domain, o.tenant, o.agent, e.id, e.target, (extract(epoch from e.created_at) * 1000000)::bigint, e.gates
  from unnest(p_domain, p_tenant, p_agent) as o(domain, tenant, agent)
  cross join lateral (
    select p.id, p.target, p.created_at, p.gates
    from turns t join promises p
      on p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
    where t.domain = o.domain and t.tenant = o.tenant and t.agent = o.agent
      and p.kind = 'ask' and p.status = 'pending' and not p.given_up
    offset 0
  ) e
  limit p_limit
$$;

-- Refuses the newest (p_newest is its place) of asks that wait for each other, if all of them still do: each of an
-- open turn that waits for it, its message in the mailbox of the one asked or in its open turn. (One that was handled
-- is answered later, by whoever has its ref, so it waits for no turn.) Its asker is woken, its message withdrawn.
-- Returns the mailboxes that have got something, or else the asks that nobody waits for.
create function refuse_ask(
  p_domain text[], p_tenant text[], p_id uuid[], p_newest int, p_value text
) returns table (domain text, partition int, tenant text, agent text, gone uuid) language plpgsql as $$
#variable_conflict use_column
declare
  settled promises[];
  asked record;
  withdrawal uuid := gen_random_uuid();
begin
  perform from promises p join unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id) using (domain, tenant, id)
    order by p.domain, p.tenant, p.id for update of p;  -- from here on none of them is settled
  return query
    select null::text, null::int, null::text, null::text, e.id
    from unnest(p_domain, p_tenant, p_id) as e(domain, tenant, id)
    where not exists (
      select from promises p
      join turns t on t.domain = p.domain and t.tenant = p.tenant and t.agent = p.agent and t.turn = p.turn
      join turns o on o.domain = split_part(p.target, '/', 1) and o.tenant = p.tenant
                  and o.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
      where p.domain = e.domain and p.tenant = e.tenant and p.id = e.id and p.status = 'pending' and not p.given_up
        and ((o.header ->> 'id')::uuid = p.message
             or exists (select from mailbox m
                        where m.domain = o.domain and m.tenant = o.tenant and m.partition = o.partition
                          and m.agent = o.agent and m.seq > 0 and m.id = p.message)));
  if found then
    return;
  end if;

  with done as (
    update promises p set status = 'cycle', value = p_value::json, settled_by = 'external/cycle', settled_at = now()
      where p.domain = p_domain[p_newest] and p.tenant = p_tenant[p_newest] and p.id = p_id[p_newest]
      returning p.*
  )
  select array_agg(done::promises) into settled from done;
  return query select w.domain, w.partition, w.tenant, w.agent, null::uuid from wake_owners(settled) w;

  select o.domain, o.tenant, o.partition, o.agent into asked
    from turns o
    where o.domain = split_part(settled[1].target, '/', 1) and o.tenant = settled[1].tenant
      and o.agent = substr(settled[1].target, length(split_part(settled[1].target, '/', 1)) + 2);
  return query
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      values (asked.domain, asked.tenant, asked.partition, asked.agent, nextval('mailbox_seq') - 4611686018427387904,
              withdrawal,
              json_build_object('id', withdrawal, 'type', 'callboard.withdraw.v1', 'sender', 'external/cycle',
                                'sent_at', extract(epoch from now())::float8),
              json_build_object('id', settled[1].message))
      returning domain, partition, tenant, agent, null::uuid;
end $$;

-- The agents of these partitions that wait for one that itself waits for another: whoever has owned them may have
-- died before it looked whether they wait for each other. Whom an ask leads to is looked up by its key: compared with all
-- asks, each would make the look longer by the others.
create function chained_asks(p_domain text, p_partitions int[], p_limit int)
returns table (tenant text, agent text) language sql stable as $$
  select distinct p.tenant, p.agent
  from promises p
  where p.domain = p_domain and p.partition = any (p_partitions) and p.kind = 'ask' and p.status = 'pending'
    and not p.given_up
    and exists (select from promises q
                where q.domain = split_part(p.target, '/', 1) and q.tenant = p.tenant
                  and q.agent = substr(p.target, length(split_part(p.target, '/', 1)) + 2)
                  and q.kind = 'ask' and q.status = 'pending' and not q.given_up
                offset 0)
  limit p_limit
$$;

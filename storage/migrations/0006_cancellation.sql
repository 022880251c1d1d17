-- The end of what a cancelled task has started. Messages in mailboxes are dropped when their turn comes; what waits,
-- or is due later, is found by the task in its header. What comes from a compensation goes on.

create index turns_task on turns (tenant, (header ->> 'task') collate "C") where header ->> 'task' is not null;
create index timers_task on timers (tenant, (header ->> 'task') collate "C") where header ->> 'task' is not null;

-- Removes the timers of cancelled tasks in the owned partitions, and has the turns that wait there run again, so that
-- they end. One that waits for a person to say what a call has done goes on when that is known, and one that waits for a
-- task when that has ended: then only is it undone. Returns every open turn of such a task there that does not wait.
create function stop_cancelled(p_domain text, p_epoch bigint, p_partitions int[])
returns table (tenant text, agent text, partition int) language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, p_partitions);
  delete from timers x where (x.domain, x.tenant, x.seq) in (
    select t.domain, t.tenant, t.seq
    from cancellations c
    join timers t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions)
    for update of t skip locked);
  update turns x set waiting = false where (x.domain, x.tenant, x.agent) in (
    select t.domain, t.tenant, t.agent
    from cancellations c
    join turns t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions) and t.waiting
      and not exists (select from promises p
                      where p.domain = t.domain and p.tenant = t.tenant and p.agent = t.agent and p.turn = t.turn
                        and p.status = 'pending' and (p.kind = 'outcome' or waits_for_task(p)))
    for update of t skip locked);  -- a commit that writes one now is followed by another look
  return query
    select t.tenant, t.agent, t.partition
    from cancellations c
    join turns t on t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
      and t.header ->> 'undoes' is null
    where c.ended_at is null and t.domain = p_domain and t.partition = any (p_partitions) and not t.waiting;
end $$;

-- Ends the cancellations of which nothing is left: no host that lives runs anything of the task, and none of its
-- turns is open. The task's agent is told in the same transaction.
create function end_cancellations(p_domain text, p_epoch bigint, p_partitions int[])
returns setof mailbox language plpgsql as $$
begin
  perform require_fence(p_domain, p_epoch, p_partitions);
  return query
    with over as (
      update cancellations c set ended_at = now()
      where c.domain = p_domain and c.ended_at is null and c.partition = any (p_partitions)
        and not exists (select from hosts h where h.ended_at is null and not h.stopped @> array[c.number])
        and not exists (select from turns t
                        where t.tenant = c.tenant and t.header ->> 'task' = c.domain || '/' || c.task
                          and t.header ->> 'undoes' is null)
      returning c.*
    ), told as (select *, gen_random_uuid() as id from over order by number)
    insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
      select t.domain, t.tenant, t.partition, 'task/' || t.task, nextval('mailbox_seq'), t.id,
             json_build_object('id', t.id, 'type', 'callboard.task_stopped.v1', 'sender', 'external/cancellation',
                               'sent_at', extract(epoch from now())::float8, 'task', t.domain || '/' || t.task),
             '{}'
      from told t
    returning *;
end $$;

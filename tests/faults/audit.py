"""A witness inside the database: it notes every transition that somebody writes who does not own it (G3), every
wake-up, and whatever is to come, or has come, at another time than it should."""

AUDIT = """
create table intrusions (epoch bigint, agent text, at timestamptz default now());

create function note_intrusions() returns trigger language plpgsql as $$
declare
  writer text[] := string_to_array(current_setting('application_name'), ' ');
begin
  insert into intrusions (epoch, agent)
    select writer[2]::bigint, t.agent
    from written t join agents a using (domain, tenant, agent)
    where not exists (
      select from hosts h
      where h.domain = t.domain and h.epoch = writer[2]::bigint and h.ended_at is null and a.partition = any (h.owned)
    );
  return null;
end $$;

create trigger intrusions after insert on transitions
  referencing new table as written for each statement execute function note_intrusions();

create table wakes (promise text, settled_by text, at timestamptz default now());

create function note_wakes() returns trigger language plpgsql as $$
begin
  insert into wakes (promise, settled_by)
    select payload ->> 'promise', header ->> 'sender' from written
    where seq < 0 and header ->> 'type' = 'callboard.wake.v1';
  return null;
end $$;

create trigger wakes after insert on mailbox
  referencing new table as written for each statement execute function note_wakes();

-- Nothing that a program waits for lies more than seconds away, and Postgres is away for less than a minute.
create table mistimed (what text, agent text, due_at timestamptz, at timestamptz default clock_timestamp());

create function note_mistimed_timers() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    insert into mistimed (what, agent, due_at)
      select 'a timer came', agent, due_at from old_rows
      where due_at > clock_timestamp() and not exists (
        select from cancellations c where header ->> 'task' = c.domain || '/' || c.task);
  else
    insert into mistimed (what, agent, due_at)
      select 'a timer was set', agent, due_at from new_rows
      where abs(extract(epoch from due_at - clock_timestamp())) > 600;
  end if;
  return null;
end $$;

create trigger mistimed after insert on timers
  referencing new table as new_rows for each statement execute function note_mistimed_timers();
create trigger mistimed_too after delete on timers
  referencing old table as old_rows for each statement execute function note_mistimed_timers();

create function note_mistimed_promises() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    insert into mistimed (what, agent, due_at)
      select 'the clock settled ' || kind, agent, due_at from new_rows
      where settled_by = 'external/clock' and due_at > clock_timestamp();
  else
    insert into mistimed (what, agent, due_at)
      select kind || ' was begun', agent, due_at from new_rows
      where abs(extract(epoch from due_at - clock_timestamp())) > 600;
  end if;
  return null;
end $$;

create trigger mistimed after insert on promises
  referencing new table as new_rows for each statement execute function note_mistimed_promises();
create trigger mistimed_too after update on promises
  referencing new table as new_rows for each statement execute function note_mistimed_promises();
"""

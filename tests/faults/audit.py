"""A witness inside the database: it notes every transition that somebody writes who does not own it (G3), and every
wake-up."""

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
"""

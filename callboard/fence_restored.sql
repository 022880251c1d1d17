-- The end of a restore, in its transaction: nothing that wrote to the lost database can write to this one.
do $$ begin
  if exists (select from callboard.migrations where number > :newest) then
    raise exception 'the backup was made by a newer release of Callboard';
  end if;
end $$;

update callboard.hosts
set ended_at = now(), ended_why = 'the database was restored', owned = '{}', wanted = '{}', suspect = '{}'
where ended_at is null;

-- Epochs and message numbers that were given out after the backup are never given out again: a survivor of the
-- lost database holds some of them, and must not be taken for somebody new. A million is more than a day's.
select setval('callboard.epochs', nextval('callboard.epochs') + 1000000);
select setval('callboard.mailbox_seq', nextval('callboard.mailbox_seq') + 1000000000);

update callboard.coordinators set epoch = nextval('callboard.epochs');

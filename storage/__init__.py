"""What survives: mailboxes, state, history and tasks in Postgres."""

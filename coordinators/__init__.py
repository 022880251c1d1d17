"""Many agents: placement, assignment and task lifecycle."""

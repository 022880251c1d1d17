"""Tasks: submitted, assigned by policy, led by a durable agent each, followed by clients."""

"""The bare loop: the durable work of a hop over asyncpg and nats-py, with no framework between."""

"""Words and wire: envelope, addresses, codec, errors and the NATS transport."""

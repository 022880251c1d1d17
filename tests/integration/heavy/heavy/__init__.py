"""A domain whose agents take their time."""

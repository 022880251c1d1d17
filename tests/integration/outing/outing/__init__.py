"""A domain whose tasks book things, wait, and are cancelled."""

"""A domain whose agents wait for each other."""

"""The agents of the secops domain, one in each file."""

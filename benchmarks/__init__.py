"""What Callboard costs: the bare loop that is its limit, and the same work through the framework."""

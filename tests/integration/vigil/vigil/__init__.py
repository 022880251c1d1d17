"""A runner that computes, asks, sleeps and waits for a permit."""

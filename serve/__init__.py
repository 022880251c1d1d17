"""Models, the model gateway and the HTTP API on Ray Serve."""

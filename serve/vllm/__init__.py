"""Chat models that vLLM runs: a Serve application of its own in a Ray of its own (decision 54)."""

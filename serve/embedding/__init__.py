"""Embedding models that run here: what the gateway asks of an upstream of type `local`."""

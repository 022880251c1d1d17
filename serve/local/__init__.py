"""What all models that run here share, behind upstreams of type `local`: their process, their batches, their refusals."""

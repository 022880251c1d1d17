"""Benchmarks of this very installation: durable work a second, counted in SQL afterwards."""

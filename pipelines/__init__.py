"""Ingest, retrieval, answering and evaluation."""

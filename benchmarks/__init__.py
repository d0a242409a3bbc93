"""Measurements against the best peers: ``python -m benchmarks.whisper``, ``python -m benchmarks.vit``."""

"""Checkpoints: manifest, per-rank shards, background writer."""

"""What a run leaves in its directory: checkpoints, metrics, provenance, heartbeats, the lock."""

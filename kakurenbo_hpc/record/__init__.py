"""What a run leaves behind: its directory, checkpoints, metrics, progress, provenance."""

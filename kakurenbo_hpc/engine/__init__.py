"""One training run on one rank: the run, its epochs, and the passes over samples."""

"""What people write: job files, options, YAML, registries, packaged files. Imports no torch."""

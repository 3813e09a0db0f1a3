"""What people write: job files, options, YAML, and the files that travel with the package. Imports no torch."""

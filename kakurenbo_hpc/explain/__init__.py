"""What every key of job, machine and comparison files means: on the command line, as JSON Schema, as tables."""

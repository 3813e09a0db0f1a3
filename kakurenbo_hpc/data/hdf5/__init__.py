"""HDF5 files: the manifest of what lies where, and reading samples at their offsets."""

"""Samples in HDF5 files: the manifest of a split, the layout of a file, reading by threads."""

"""Data sets by name, one file each: an options model that opens it, and its samples."""

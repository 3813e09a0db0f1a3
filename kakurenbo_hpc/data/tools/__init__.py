"""Data tools: synthetic DeepCAM files, statistics of DeepCAM files, image folders packed into HDF5."""

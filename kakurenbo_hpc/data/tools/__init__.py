"""Tools that make and convert data sets: synthetic DeepCAM, channel statistics, packing."""

"""One of each that kakurenbo_hpc takes from other packages."""

"""Report of runs: figures, tables and one HTML page from what run directories hold."""

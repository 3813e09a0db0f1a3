"""Schedulers: batch systems, one file and one script template each."""

"""Comparisons: specification, runs, metrics over seeds."""

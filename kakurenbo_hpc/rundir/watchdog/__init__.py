"""Heartbeats of all ranks, and the watchdog that ends a run that hangs."""

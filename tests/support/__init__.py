"""Helpers that tests share: starting ranks, batch systems, oracles, environments."""

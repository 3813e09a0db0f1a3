"""Samples on the nodes' own disks: shards, staging, and exchange between ranks."""

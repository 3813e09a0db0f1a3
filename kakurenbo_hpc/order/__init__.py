"""Who trains what, when: from a plan to this rank's batches, and from its results home to the ledger."""

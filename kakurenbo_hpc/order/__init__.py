"""Order of an epoch: from a plan to each rank's batches, and from sample statistics back to the ledgers."""

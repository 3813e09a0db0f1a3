"""Records that the stages of an epoch pass on: ledger, plan, batch, sample statistics; random numbers."""

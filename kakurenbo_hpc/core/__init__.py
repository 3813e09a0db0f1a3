"""The records that stages of an epoch pass on: ledger, plan, batch, sample statistics; and keyed random numbers."""

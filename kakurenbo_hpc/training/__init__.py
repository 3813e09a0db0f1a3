"""Training: model, criterion, optimizer, schedule, the steps of one rank and their per-sample statistics."""

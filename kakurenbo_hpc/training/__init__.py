"""The network and how it learns: model, optimizer, schedule, one step, one look, evaluation."""

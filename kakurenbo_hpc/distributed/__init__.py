"""Ranks: collective communication, this rank's place, gradient averaging, preemption."""

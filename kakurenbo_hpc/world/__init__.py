"""Who else is there: this rank's place among all ranks, how ranks talk, and how gradients are averaged."""

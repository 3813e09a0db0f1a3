"""Doctor: checks of a machine and a job before they meet the queue."""

"""The simulated cloud: its jobs, their instances and machines, and the ground truth."""

"""Who may drive a partition: fencing tokens, leases, and the assignment to replicas."""

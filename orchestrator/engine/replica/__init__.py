"""What one daemon drives: its leases, and the loops of each partition that it holds."""

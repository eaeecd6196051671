"""What may keep a call from its effect: quotas and injected faults."""

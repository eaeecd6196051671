"""Quotas and injected faults, which can prevent a call from taking effect."""

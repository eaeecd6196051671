"""Scenario files: their jobs, credentials, quotas and faults."""

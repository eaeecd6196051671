"""Scenario files: jobs, credentials, quotas and faults."""

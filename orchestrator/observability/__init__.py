"""Observability of the daemon: structured logs on standard error, and Prometheus metrics."""

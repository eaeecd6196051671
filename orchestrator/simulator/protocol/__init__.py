"""Tencent Cloud API 3.0 over HTTP: requests, signatures, and replies with their faults."""

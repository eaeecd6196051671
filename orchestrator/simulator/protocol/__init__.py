"""API 3.0 on the wire: requests, signatures, replies and their faults."""

"""The API's side: storing operations, and the reads that answer requests."""

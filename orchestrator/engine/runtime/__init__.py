"""Step runner, retries, faulty ids, rate limits, wake-up events and clock, shared by all loops."""

"""When calls may leave: permits and the learnt rate, intervals between reads, and backoff."""

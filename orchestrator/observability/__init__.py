"""What the daemon tells about itself: structured logs."""

"""The API's side: submission, and what is read for people."""

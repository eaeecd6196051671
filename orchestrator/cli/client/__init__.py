"""The client of the REST API: requests, models of the responses, and errors."""

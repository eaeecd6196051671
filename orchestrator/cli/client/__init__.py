"""The client of the REST API: requests, the answers as models, and what a request fails with."""

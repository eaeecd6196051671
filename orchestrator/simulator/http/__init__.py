"""The HTTP servers of the API and of the control API, on aiohttp."""

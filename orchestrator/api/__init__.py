"""REST API: ``routes`` has the paths and handlers, ``schemas`` the JSON of requests and responses.

Three middlewares wrap each handler: ``indentation`` (``?pretty``), ``problems`` (every error is
``application/problem+json``, RFC 9457) and ``auth``. ``protocol`` and ``connections`` replace what
aiohttp answers by itself, and bound the number of connections.
"""

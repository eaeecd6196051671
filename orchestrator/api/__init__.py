"""The REST API: ``routes`` says what exists, ``schemas`` what it looks like on the wire.

Errors are ``application/problem+json`` (RFC 9457), made in ``problems`` alone.
"""

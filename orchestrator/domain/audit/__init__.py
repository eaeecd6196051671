"""Events, their hash chain, and the certificate that proves how an operation ended.

``event_facts`` names what an event keeps, ``hash_chain`` links events, ``certificate`` makes the
document, ``caveats`` says what it does not prove, and ``verification`` checks one that was issued.
"""

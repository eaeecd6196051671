"""Tencent Cloud Batch, and CVM for its machines, as the engine's ``Cloud`` port.

Overview. A method of ``TencentBatch`` takes the account's credential, signs one request with it,
sends the request once and decodes the reply::

    gateway       TencentBatch: the API of one account; uses the modules below
    hosts         the host that an endpoint stands for in a region
    wire          request bodies and replies, without I/O
    fields        single values of a reply: each is valid, absent, or Client.BadAnswer
    state_filter  name of DescribeTask's filter by instance state, which differs between sites
    error_codes   error codes: the kind of each, and advice for the operator
    signing       TC3-HMAC-SHA256, without I/O and without a clock
    transport     one POST over aiohttp: a reply, or why there is none
    egress        proxy and certificate authorities of an account
    credentials   credential providers; ``profiles``, ``machine_role`` and ``sts`` load keys,
                  ``keys`` validates them, ``refreshing`` replaces them before they expire
    threads       blocking functions and DNS lookups, each in a thread of its own

Failures. Every failure is a ``CloudError`` whose ``kind`` states whether the request may have been
executed. NOT_SENT: no byte of it left this host, or it was refused before it was read.
OUTCOME_UNKNOWN: it left, and no valid reply proves what the cloud did, so the job must be read. A
reply with missing or invalid fields is OUTCOME_UNKNOWN too: it is evidence of nothing. The other
kinds are replies of the cloud.

Nothing here retries: a retry spends quota, so the engine decides on it. A lease that was lost
while the connection was opened stops the request at the last moment (``before_send``).
"""

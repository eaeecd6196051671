"""Tencent Cloud Batch, and CVM for its machines, as the engine's ``Cloud`` port.

::

    gateway      TencentBatch: one account's calls; puts the parts below together
    hosts        which host is called for a region
    wire         request bodies and answers, without I/O, from the ``pieces`` of an answer
    state_filter what the filter by instance state is called on this site
    catalogue    what each error code means and what a person can do about it
    signing      TC3-HMAC-SHA256, without I/O and without a clock
    transport    one POST over aiohttp: an answer, or what is known of why there is none
    credentials  where the keys come from; ``refreshing`` and ``temporary`` keep them fresh

Every failure is a ``CloudError`` whose kind says whether the call may have been executed.  Nothing
here retries: a retry is the engine's decision, and it spends quota.
"""

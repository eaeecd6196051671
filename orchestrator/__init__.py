"""Termination orchestrator for Tencent Cloud Batch.

It stops jobs, follows every task instance until it has stopped, and reports what is proven.

The layers, from the top. Imports point down only; import-linter checks it
(``[tool.importlinter]`` in pyproject.toml)::

    cli > daemon > composition > access > settings
        > (api | store | cloud | observability) > (engine | services) > (domain | paths)

``simulator`` stands in for the cloud; it imports nothing from the other packages.
"""

__version__ = "0.1.0"

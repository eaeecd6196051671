"""Stops Tencent Cloud Batch jobs, follows every task instance down, and says what is proven.

The layers, from the top; imports point down only and import-linter keeps it so
(``[tool.importlinter]`` in pyproject.toml)::

    cli > app > settings > (api | store | cloud | observability) > (engine | services) > domain

``simulator`` is a stand-in for the cloud; it imports nothing from here.
"""

__version__ = "0.1.0"

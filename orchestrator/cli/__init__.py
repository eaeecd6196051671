"""The command line.

``terminate``, ``status``, ``watch`` and ``certificate`` talk to a running daemon through the REST
API alone, so that they work from anywhere, and ``certificate --verify`` needs none; ``serve``,
``check-config``, ``db``, ``simulator`` and ``demo`` work on this machine.  ``main`` holds the
commands and nothing else.

Exit codes: 0 as asked, 1 it ran and did not come out well, 2 the request or the configuration
cannot be used, 3 the daemon cannot be reached, 128 + N ended by signal N.

What the cloud sent (names, messages) may hold anything, terminal escapes included: it is printed
through ``printing.clean`` and never as rich markup.
"""

"""The command line.

``terminate``, ``status``, ``list``, ``watch``, ``certificate`` and ``health`` use only the REST API
of a running daemon, so they work from any machine; ``certificate --verify`` needs no daemon.
``serve``, ``check-config``, ``db``, ``simulator`` and ``demo`` work on the local machine. ``main``
declares the commands, ``commands`` has one module per command, and ``exit_codes`` the exit codes.

Text that came from the cloud (names, messages) can contain anything, including terminal escape
sequences. It is printed through ``printing.clean`` and never as rich markup.
"""

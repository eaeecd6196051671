"""The command line.

``terminate``, ``status``, ``list``, ``watch`` and ``certificate`` talk to a running daemon through
the REST API alone, so that they work from anywhere, and ``certificate --verify`` needs none;
``serve``, ``check-config``, ``db``, ``simulator`` and ``demo`` work on this machine.  ``main``
declares the commands, ``commands`` holds a file for each, ``exit_codes`` the exit codes.

What the cloud sent (names, messages) may hold anything, terminal escapes included: it is printed
through ``printing.clean`` and never as rich markup.
"""

"""The database: SQLAlchemy Core, one aggregate a file.

From the top: ``partition`` is the engine's side, ``records`` the API's, ``terminations`` what both
of them write, ``database`` opens the database and owns the one writer, ``mapping`` turns rows into
values, and ``schema`` has the tables.  A change of state is written with the event row in one
transaction, and only where the row is still what the decision was made on.
"""

"""The database: SQLAlchemy Core, one aggregate a file.

``database`` opens it and owns the one writer; ``schema`` has the tables; ``migrate`` brings a
database to this version.  A change of state is written with the event row in one transaction, and
only where the row is still what the decision was made on.
"""

"""Use cases of the REST API: submission, inspection, explanation, certification and readiness.

``ports`` has the database interfaces that they need, which ``store`` implements.
"""

"""Use cases of the REST API: submission, inspection, explanation and certification.

``ports`` has the database interfaces that they need, which ``store`` implements.
"""

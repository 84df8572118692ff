"""Mirrors the package. Pure tests need no CKAN; test_path.py runs the whole stack."""

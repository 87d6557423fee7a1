"""Verbs of `python -m pipeline` on a dataset."""

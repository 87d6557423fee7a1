"""`report`: a page about a dataset."""

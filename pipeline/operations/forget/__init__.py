"""`forget`: samples that a dataset must not hold any more."""

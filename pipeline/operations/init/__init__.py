"""A first job: a look at a source, and settings that fit it."""

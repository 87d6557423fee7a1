"""The three stages of a job: decode, tokenize, commit."""

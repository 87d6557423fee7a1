"""The commit log: its records, what they add up to, and the manifest that sums them up."""

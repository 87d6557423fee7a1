"""Settings of a job, and how they are loaded."""

"""`plan`: what a job would do and cost."""

"""A job on Ray: plan, passes, metrics, summary."""

"""What watches a pass: actors that report, the desk that collects, and what nodes have shown."""

"""From source URIs to samples."""

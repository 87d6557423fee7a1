"""Models: loading, encoding, decoding, identity."""

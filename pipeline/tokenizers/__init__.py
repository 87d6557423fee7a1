"""Models: loading, encoding, decoding back, identity."""

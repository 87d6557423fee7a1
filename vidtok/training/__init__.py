"""Training of VidTok: regularizers, the adversarial objective, averaged weights."""

"""What VidTok is trained with: regularizers, the adversarial objective, averaged weights."""

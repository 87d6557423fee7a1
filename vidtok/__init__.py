"""VidTok video tokenizers (arXiv 2412.13061): FSQ code indices and KL latents, in pure PyTorch."""

"""The corpus job: video in, committed Parquet of VidTok tokens and latents out."""

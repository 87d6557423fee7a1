"""Training of tokenizers on the corpus that the pipeline reads."""

from pipeline.training.ray_ranks import Rank, run_ranks

__all__ = ["Rank", "run_ranks"]

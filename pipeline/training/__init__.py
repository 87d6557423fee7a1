"""Training of tokenizers on the corpus that the pipeline reads."""

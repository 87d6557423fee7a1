"""Measures of a clip: luma, motion, a perceptual hash, and the area of text."""

"""Measures of a tokenizer: fidelity, Fréchet distances, use of the codebook, bits.

Everything here takes tensors and returns numbers; files, tables and videos belong to the pipeline.
Accumulators can be merged, so that each worker measures its own share.
"""

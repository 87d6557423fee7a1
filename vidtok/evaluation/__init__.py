"""What is measured of a tokenizer: fidelity, Fréchet distances, use of the codebook, bits.

Everything here takes tensors and gives numbers; files, tables and videos are the pipeline's.
Accumulators merge, so that every worker may measure its own share.
"""

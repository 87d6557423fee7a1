"""Evaluation: held-out videos through tokenizers and baselines, and what it cost the picture.

    videos ─► units ─► frames ─► clips ─┬► tokenizers ─┬► scores per video ─► table, plot
              as in the corpus job      └► baselines ──┘└► pictures

Every candidate sees the same frames. A metric whose network is not there is reported as missing,
with the reason; nothing takes its place. Workers return sums, never means, and these are merged in
the order of the plan: one worker or many, the numbers are the same.
"""

"""Evaluation: held-out videos through tokenizers and baselines, and the loss of quality.

    videos ─► units ─► frames ─► clips ─┬► tokenizers ─┬► scores per video ─► table, plot
              as in the corpus job      └► baselines ──┘└► pictures

Every candidate gets the same frames. A metric without its network is reported as missing, with the
reason. Workers return sums, which are merged in the order of the plan, so the numbers do not depend
on the number of workers.
"""

"""The frames around a chunk: with gradients they are joined, without they are written in place."""

from itertools import product

import pytest
import torch
from torch import nn

from vidtok.norm import NormAct
from vidtok.temporal import Stream
from vidtok.time_rule import RULES


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("network", RULES)
def test_a_window_is_the_same_with_and_without_gradients(network: str, with_norm: bool) -> None:
    rule, layer = RULES[network], nn.Identity()
    torch.manual_seed(0)
    norm = NormAct(6) if with_norm else None
    chunks = ((True, False), (False, True), (True, True)) if rule.causal else ((True, True),)
    for compact, stride in product((False, True), (1, 2)):
        joined, written = Stream(rule, compact=compact), Stream(rule, compact=compact)
        for first, last in chunks:
            x = torch.randn(2, 4, 3, 5, 6, requires_grad=True)
            at = {"first": first, "last": last}
            found = joined.chunk(**at).window(layer, x, norm=norm, stride=stride)
            with torch.no_grad():
                expected = written.chunk(**at).window(layer, x, norm=norm, stride=stride)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            [gradient] = torch.autograd.grad(found.square().sum() / 2, x)
            inside = x if norm is None else norm(x)
            # A frame counts once for each place of the window that holds it.
            counts = torch.ones(4)
            if first and rule.fill == "first":
                counts[0] += found.shape[1] - 4 - rule.padding(stride)[1]
            each = counts.view(4, 1, 1, 1)
            [wanted] = torch.autograd.grad((inside.square() * each).sum() / 2, x)
            torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)

from pathlib import Path

import torch

from tests.ranks import run_ranks
from tests.vidtok.deterministic import unit_normal
from vidtok.training.entropy import fsq_entropy
from vidtok.training.ranks import mean_over_ranks

LEVELS = (8, 5, 5)


def tokens() -> torch.Tensor:
    return unit_normal("ranks", (6, len(LEVELS))) * 0.05


def one_of_two(rank: int, folder: Path) -> None:
    """What one of two ranks does with its half of the tokens, and with a loss of its own."""
    z = tokens().chunk(2)[rank].clone().requires_grad_()
    _, codebook = fsq_entropy(z, LEVELS)
    codebook.backward()
    x = torch.tensor([1.0 + rank], requires_grad=True)
    mean = mean_over_ranks(x)
    ((10 + rank) * mean).backward()
    results = {"codebook": codebook, "gradient": z.grad, "mean": mean, "mean_gradient": x.grad}
    torch.save({name: value.detach() for name, value in results.items()}, folder / f"{rank}.pt")


def test_two_ranks_have_the_mean_the_entropy_and_the_gradient_of_one(tmp_path: Path) -> None:
    run_ranks(one_of_two, 2, tmp_path / "meet", tmp_path)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    z = tokens().requires_grad_()
    _, codebook = fsq_entropy(z, LEVELS)
    codebook.backward()
    for half in halves:
        torch.testing.assert_close(half["codebook"], codebook.detach())
    # Data parallelism halves the gradients of two ranks; so each must hold twice its share.
    gradient = torch.cat([half["gradient"] for half in halves]) / 2
    torch.testing.assert_close(gradient, z.grad, rtol=1e-4, atol=1e-6)
    for half in halves:
        assert half["mean"].item() == 1.5
        assert half["mean_gradient"].item() == 10.5


def test_one_process_is_its_own_mean() -> None:
    x = tokens()
    assert mean_over_ranks(x) is x

import copy

import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer, ops
from vidtok.training import memory
from vidtok.training.network import Reconstruction, TrainedTokenizer

NETWORKS = ("causal_v1_0", "causal_v1_1", "noncausal")


def clips(network: str, batch: int = 1) -> Tensor:
    """Frames as the loader gives them, of a length that v1.1 has to fill up in front."""
    frames = {"causal_v1_0": 5, "causal_v1_1": 6, "noncausal": 8}[network]
    video = synthetic_video(batch, frames, 16, 24)
    return ((video + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)


def without_noise(tokenizer: Tokenizer) -> Tokenizer:
    """Let the posterior's deviation be e^-15."""
    weight, bias = ops.weight_and_bias(tokenizer.encoder.conv_out)
    with torch.no_grad():
        weight[3:], bias[3:] = 0, -30
    return tokenizer


def gradients(tokenizer: Tokenizer, made: Reconstruction) -> dict[str, Tensor]:
    ((made.x - made.x_hat).square().mean() + made.regularizer).backward()
    return {name: p.grad for name, p in tokenizer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", NETWORKS)
def test_training_sees_what_the_tokenizer_gives(network: str, regularizer: str) -> None:
    tokenizer = small(network, regularizer)
    if regularizer == "kl":
        tokenizer = without_noise(tokenizer)
    given = clips(network, batch=2)
    seen: list[Tensor] = []
    tokenizer.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made = TrainedTokenizer(tokenizer.train())(given, step=0)
    trained_latent = seen[0].detach().movedim(-1, 1)

    video = given.movedim(-1, 1).float() / 127.5 - 1
    encoded = tokenizer.encode(video)
    assert torch.equal(made.x, video)
    if regularizer == "fsq":
        assert torch.equal(trained_latent, encoded.latent)
        assert set(made.parts) == {"token_entropy", "codebook_entropy", "commitment"}
    else:
        torch.testing.assert_close(trained_latent, encoded.mean, rtol=0, atol=1e-4)
        assert set(made.parts) == {"kl"}
    decoded = tokenizer.decode(encoded.latent, num_frames=given.shape[1])
    torch.testing.assert_close(made.x_hat, decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_all_weights_learn_from_one_loss(regularizer: str) -> None:
    tokenizer = small("causal_v1_0", regularizer)
    found = gradients(tokenizer, TrainedTokenizer(tokenizer)(clips("causal_v1_0"), 0))
    assert set(found) == {name for name, _ in tokenizer.named_parameters()}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_kl_noise_is_of_the_posterior_and_new_in_each_pass() -> None:
    network = TrainedTokenizer(small("causal_v1_0", "kl"))
    torch.manual_seed(0)
    one, other = (network(clips("causal_v1_0"), 0) for _ in range(2))
    torch.manual_seed(0)
    again = network(clips("causal_v1_0"), 0)
    assert torch.equal(one.x_hat, again.x_hat)
    assert not torch.equal(one.x_hat, other.x_hat)
    assert torch.equal(one.regularizer, other.regularizer)


def test_a_frozen_encoder_gets_no_gradient_and_no_entropy_loss() -> None:
    tokenizer = small("causal_v1_0")
    network = TrainedTokenizer(tokenizer, freeze_encoder=True)
    given = clips("causal_v1_0")
    made = network(given, 0)
    whole = TrainedTokenizer(copy.deepcopy(tokenizer))(given, 0)
    torch.testing.assert_close(made.x_hat, whole.x_hat, rtol=0, atol=1e-4)
    assert made.regularizer == 0
    assert made.parts == {}
    assert whole.regularizer != 0
    found = gradients(tokenizer, made)
    assert found
    assert all(name.startswith("decoder.") for name in found)
    assert not any(p.requires_grad for p in tokenizer.encoder.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputing_changes_neither_the_result_nor_the_gradients(network: str) -> None:
    results = []
    for recompute in (False, True):
        tokenizer = small(network, "kl")
        passes: list[int] = []
        tokenizer.decoder.up[0].block[0].norm1.register_forward_hook(
            lambda *_, passes=passes: passes.append(1)
        )
        torch.manual_seed(0)
        trained = TrainedTokenizer(tokenizer)
        if recompute:
            memory.recompute(trained.blocks)
        made = trained(clips(network), 0)
        results.append((made.x_hat, gradients(tokenizer, made)))
        assert len(passes) == 1 + recompute
    (plain, plain_gradients), (again, again_gradients) = results
    assert torch.equal(plain, again)
    assert plain_gradients.keys() == again_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(again_gradients[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_bfloat16_is_for_convolutions_alone(regularizer: str, freeze: bool) -> None:
    tokenizer = (
        without_noise(small("causal_v1_0", "kl")) if regularizer == "kl" else small("causal_v1_0")
    )
    given = clips("causal_v1_0")
    exact = TrainedTokenizer(copy.deepcopy(tokenizer))(given, 0)
    network = TrainedTokenizer(tokenizer, autocast=torch.bfloat16, freeze_encoder=freeze)
    inside: list[torch.dtype] = []
    tokenizer.decoder.mid.register_forward_hook(lambda *seen: inside.append(seen[-1].dtype))
    made = network(given, 0)
    assert inside == [torch.bfloat16]
    assert made.x_hat.dtype == made.regularizer.dtype == torch.float32
    error = (made.x_hat - exact.x_hat).std() / exact.x_hat.std()
    assert 0 < error < (0.15 if regularizer == "kl" else 0.5)
    found = gradients(tokenizer, made)
    assert found["decoder.conv_out.conv.weight"].dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_last_weight_is_that_of_the_pixels(network: str) -> None:
    tokenizer = small(network)
    trained = TrainedTokenizer(tokenizer)
    name = "conv_out.conv.weight" if network != "noncausal" else "conv_out.weight"
    assert trained.last_weight is dict(tokenizer.decoder.named_parameters())[name]
    assert trained.last_weight.shape == (3, 8, 3, 3, 3)

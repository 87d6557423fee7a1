import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import shallow, small
from vidtok import Tokenizer
from vidtok.training.objective import ObjectiveConfig
from vidtok.training.perceptual import structural_distance
from vidtok.training.trainer import Trainer, TrainerConfig

PIXELS = ObjectiveConfig(perceptual_weight=0, discriminator=None)
CONFIG = TrainerConfig(lr=1e-3, ema_decay=0.9, precision="float32")
FRAMES = 5


def clips(batch: int = 1, side: int = 24) -> Tensor:
    video = synthetic_video(batch, FRAMES, side, side)
    return ((video + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).contiguous()


def trainer(tokenizer: Tokenizer, objective: ObjectiveConfig = PIXELS, **how: Any) -> Trainer:
    perceptual = structural_distance if objective.perceptual_weight else None
    values = {name: getattr(CONFIG, name) for name in TrainerConfig.__slots__}
    return Trainer(tokenizer, TrainerConfig(**(values | how)), objective, perceptual)


def losses(run: Trainer, batch: Tensor) -> dict[str, float]:
    """Take a step, and fetch what it returns."""
    return {name: float(value) for name, value in run.train_on(batch).items()}


def copies(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, t in module.state_dict().items() if not torch.equal(t, before[name])}


def test_the_learning_rate_of_each_batch() -> None:
    constant = TrainerConfig(lr=2.0, warmup_steps=4)
    assert [constant.lr_at(step) for step in (0, 1, 3, 4, 49_999)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert TrainerConfig(lr=2.0).lr_at(0) == 2.0
    cosine = TrainerConfig(lr=2.0, steps=14, warmup_steps=4, schedule="cosine", final_lr=0.1)
    assert [cosine.lr_at(step) for step in (0, 3, 4)] == [0.5, 2.0, 2.0]
    assert cosine.lr_at(9) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert cosine.lr_at(14) == cosine.lr_at(99) == pytest.approx(0.2)
    falling = [cosine.lr_at(step) for step in range(4, 15)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("regularizer", "optimizer", "steps"),
    [("fsq", "adam", 15), ("kl", "adam", 15), ("kl", "muon", 30)],
)
def test_a_clip_is_learned(regularizer: str, optimizer: str, steps: int) -> None:
    tokenizer = small("causal_v1_0", regularizer)
    before = copies(tokenizer)
    kl = ObjectiveConfig(perceptual_weight=0, discriminator=None, regularizer_weight=1e-6)
    run = trainer(tokenizer, kl if regularizer == "kl" else PIXELS, optimizer=optimizer)
    pixel = [losses(run, clips())["pixel"] for _ in range(steps)]
    assert run.step == steps
    assert changed(before, tokenizer) == set(before)
    assert sum(pixel[-3:]) / 3 < 0.55 * pixel[0]


def test_what_a_step_tells() -> None:
    objective = ObjectiveConfig(discriminator_start=1)
    run = trainer(shallow("causal_v1_0"), objective, warmup_steps=2)
    first, second = run.train_on(clips(side=32)), run.train_on(clips(side=32))
    assert [first["lr"], second["lr"]] == [5e-4, 1e-3]
    always = {"loss", "pixel", "perceptual", "nll", "regularizer", "logvar", "gradient_norm"}
    assert always | {"token_entropy", "codebook_entropy", "commitment"} <= set(first)
    new = {"adversarial", "adaptive_weight", "hinge", "lecam", "discriminator_gradient_norm"}
    assert new & set(first) == set()
    assert new <= set(second)
    # What stays on the device cannot make the step wait for it.
    assert all(value.shape == () for name, value in second.items() if name != "lr")
    assert not any(value.requires_grad for name, value in second.items() if name != "lr")


@pytest.mark.parametrize(
    ("regularizer", "nested"), [("fsq", None), ("fsq", (1, 2, 3)), ("kl", None)]
)
def test_a_step_never_waits_for_the_device(
    regularizer: str, nested: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the `meta` device there are no values: reading one fails."""
    objective = ObjectiveConfig(discriminator_start=0)
    tokenizer = shallow("causal_v1_0", regularizer).to("meta")
    run = Trainer(tokenizer, TrainerConfig(nested=nested), objective, structural_distance)
    video = clips(side=32).to("meta")
    run.train_on(video)
    # Copies of numbers to the device wait for it, too. The first step may make some.
    monkeypatch.delattr(torch, "tensor")
    values = run.train_on(video)
    assert {value.device.type for name, value in values.items() if name != "lr"} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(values["loss"])


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_arithmetic_is_set_during_a_step_and_restored_after_it(precision: str) -> None:
    backends = torch.backends

    def flags() -> tuple[bool, bool, bool]:
        return (
            backends.cudnn.allow_tf32,
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.benchmark,
        )

    tokenizer = shallow("causal_v1_0")
    seen: list[tuple[bool, bool, bool]] = []
    tokenizer.decoder.register_forward_hook(lambda *_: seen.append(flags()))
    before = flags()
    run = trainer(tokenizer, precision=precision, recompute=False)
    run.train_on(clips())
    tf32 = precision == "tf32"
    assert seen == [(tf32, tf32, True)]
    assert flags() == before
    with pytest.raises(RuntimeError):
        run.train_on(clips()[..., :2])
    assert flags() == before != seen[0]


def test_gradients_longer_than_the_limit_are_shortened() -> None:
    moves = []
    for clip_norm in (1e-9, 1e9):
        tokenizer = shallow("causal_v1_0")
        before = copies(tokenizer)
        assert trainer(tokenizer, clip_norm=clip_norm).train_on(clips())["gradient_norm"] > 1
        now = tokenizer.state_dict()
        moves.append(max(float((now[name] - before[name]).abs().max()) for name in before))
    # Adam moves by the learning rate, however small the gradient, down to its epsilon of 1e-8.
    assert moves[0] < 1e-4 < moves[1] == pytest.approx(1e-3, rel=1e-3)


def test_a_decoder_stage_leaves_the_encoder_as_it_is() -> None:
    tokenizer = shallow("causal_v1_0")
    before = copies(tokenizer)
    run = trainer(tokenizer, train="decoder")
    for _ in range(3):
        run.train_on(clips())
    assert changed(before, tokenizer) == {name for name in before if name.startswith("decoder.")}
    averaged = run.averaged.state_dict()
    assert all(torch.equal(averaged[n], before[n]) for n in before if n.startswith("encoder."))


def test_the_discriminator_learns_and_is_heard_from_its_first_step() -> None:
    def states(start: int) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        objective = ObjectiveConfig(perceptual_weight=0, discriminator_start=start)
        tokenizer = shallow("causal_v1_0")
        run = trainer(tokenizer, objective)
        found = []
        for _ in range(3):
            run.train_on(clips())
            judge = {f"judge.{name}": t for name, t in run.state_dict()["objective"].items()}
            found.append({name: t.clone() for name, t in (tokenizer.state_dict() | judge).items()})
        return found

    late, never = states(2), states(99)
    judges = [name for name in late[0] if name.startswith("judge.discriminator.")]
    assert judges
    for step in (0, 1):
        assert all(torch.equal(late[step][name], never[step][name]) for name in late[step])
        assert all(torch.equal(late[step][name], late[0][name]) for name in judges)
    assert not any(torch.equal(late[2][name], late[1][name]) for name in judges)
    assert not torch.equal(
        late[2]["decoder.conv_out.conv.weight"], never[2]["decoder.conv_out.conv.weight"]
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_the_average_follows_and_is_a_tokenizer_of_its_own(recompute: bool) -> None:
    tokenizer = shallow("causal_v1_0", "kl")
    run = trainer(tokenizer, recompute=recompute)
    start = copies(run.averaged)
    video = clips().movedim(-1, 1).float() / 127.5 - 1
    for _ in range(3):
        run.train_on(clips())
    name = "decoder.conv_out.conv.weight"
    average, last = run.averaged.state_dict()[name], tokenizer.state_dict()[name]
    assert not torch.equal(average, start[name])
    assert not torch.equal(average, last)
    assert (average - start[name]).norm() < (last - start[name]).norm()
    assert not run.averaged.training
    # A tokenizer with these weights gives what the average gives: it shares no layer.
    fresh = shallow("causal_v1_0", "kl")
    fresh.load_state_dict(run.averaged.state_dict())
    assert torch.equal(run.averaged.encode(video).latent, fresh.encode(video).latent)
    assert not torch.equal(run.averaged.encode(video).latent, tokenizer.encode(video).latent)


@pytest.mark.parametrize(
    ("regularizer", "optimizer"), [("fsq", "adam"), ("kl", "adam"), ("kl", "muon")]
)
def test_a_saved_state_goes_on_bit_for_bit(regularizer: str, optimizer: str) -> None:
    objective = ObjectiveConfig(discriminator_start=1)
    how = {"warmup_steps": 3, "optimizer": optimizer}
    run = trainer(shallow("causal_v1_0", regularizer), objective, **how)
    for _ in range(2):
        run.train_on(clips(side=32))
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    random = torch.get_rng_state()
    expected = [losses(run, clips(side=32)) for _ in range(2)]

    file.seek(0)
    other = trainer(shallow("causal_v1_0", regularizer), objective, **how)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.set_rng_state(random)
    assert other.step == 2
    assert [losses(other, clips(side=32)) for _ in range(2)] == expected
    now, then = other.averaged.state_dict(), run.averaged.state_dict()
    assert all(torch.equal(now[name], then[name]) for name in then)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_saved_state_goes_on_with_the_present_betas(optimizer: str) -> None:
    run = trainer(shallow("causal_v1_0"), optimizer=optimizer)
    run.train_on(clips())
    other = trainer(shallow("causal_v1_0"), optimizer=optimizer, betas=(0.5, 0.6))
    other.load_state_dict(run.state_dict())
    other.train_on(clips())
    (saved,) = other.state_dict()["optimizers"]
    [group] = saved.get("adam", saved)["param_groups"]
    assert group["betas"] == (0.5, 0.6)


def test_a_state_of_another_network_or_objective_is_refused() -> None:
    state = trainer(shallow("causal_v1_0")).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer(shallow("causal_v1_0", "kl")).load_state_dict(state)
    with pytest.raises(RuntimeError, match="discriminator"):
        trainer(shallow("causal_v1_0"), ObjectiveConfig(perceptual_weight=0)).load_state_dict(state)


def test_a_state_of_another_optimizer_is_refused() -> None:
    adam, muon = (trainer(shallow("causal_v1_0"), optimizer=name) for name in ("adam", "muon"))
    for one, other in ((adam, muon), (muon, adam)):
        with pytest.raises(ValueError, match="another optimizer"):
            one.load_state_dict(other.state_dict())


ADVERSARIAL = ObjectiveConfig(perceptual_weight=0, discriminator="3d", discriminator_start=1)
"""Heard from the second step on; the first one has the gradient of a plain mean over clips."""


PLAIN = ObjectiveConfig(perceptual_weight=0, discriminator=None, regularizer_weight=0)
"""A mean over clips alone: parts of a batch give what the whole gives."""


def moves(tokenizer: Tokenizer, before: dict[str, Tensor]) -> Tensor:
    return torch.cat([(t - before[name]).flatten() for name, t in tokenizer.state_dict().items()])


def assert_same_first_step(one: Tensor, other: Tensor) -> None:
    """Adam's first step is the sign of a gradient: where that is nearly zero, rounding decides."""
    assert one.abs().max() > 0.5 * CONFIG.lr
    assert ((one - other).abs() < 0.2 * CONFIG.lr).float().mean() > 0.995


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_are_learned_as_the_whole(parts: int) -> None:
    moved, told = [], []
    for accumulate in (1, parts):
        tokenizer = shallow("causal_v1_0")
        before = copies(tokenizer)
        run = trainer(tokenizer, PLAIN, accumulate=accumulate)
        told.append(losses(run, clips(4)))
        moved.append(moves(tokenizer, before))
        assert run.step == 1
    for name in ("loss", "pixel", "nll", "logvar", "gradient_norm", "commitment"):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-4), name
    assert_same_first_step(*moved)


def test_the_discriminator_learns_from_all_parts_of_a_batch() -> None:
    """For equal parts, what is not a mean over clips is equal, too: entropies, scales, norms."""
    told, judges = [], []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        objective = ObjectiveConfig(perceptual_weight=0, discriminator_start=0)
        run = trainer(shallow("causal_v1_0"), objective, accumulate=accumulate)
        told.append(losses(run, clips().repeat(2, 1, 1, 1, 1)))
        judges.append(run.state_dict()["objective"]["discriminator.main.0.weight"])
    assert told[0]["discriminator_gradient_norm"] > 0.01
    assert told[0] == pytest.approx(told[1], rel=1e-2)
    assert ((judges[0] - judges[1]).abs() < 0.2 * CONFIG.lr).float().mean() > 0.995


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="accumulate = 2: must divide the batch of 3 clips"):
        trainer(shallow("causal_v1_0"), accumulate=2).train_on(clips(3))


def one_of_two(rank: int, folder: Path) -> None:
    """What one of two ranks makes of its clip; each begins with weights of its own."""
    torch.manual_seed(rank)
    tokenizer = shallow("causal_v1_0")
    if rank == 1:
        with torch.no_grad():
            for parameter in tokenizer.parameters():
                parameter.add_(1)
    run = trainer(tokenizer, ADVERSARIAL)
    states = []
    for _ in range(2):
        values = losses(run, clips(2).narrow(0, rank, 1))
        state = run.state_dict()
        learned = {f"judge.{n}": t for n, t in state["objective"].items()} | copies(tokenizer)
        norm = {"norm": torch.tensor(values["gradient_norm"])}
        states.append({name: t.clone() for name, t in (learned | norm).items()})
    torch.save(states, folder / f"{rank}.pt")
    tokenizer = shallow("causal_v1_0")
    before = copies(tokenizer)
    trainer(tokenizer, PLAIN, accumulate=2).train_on(clips(4).chunk(2)[rank])
    torch.save(moves(tokenizer, before), folder / f"parts-{rank}.pt")
    del run
    gc.collect()  # see `train_stages`


def test_two_ranks_stay_alike_and_learn_what_one_learns_from_both_clips(tmp_path: Path) -> None:
    run_ranks(one_of_two, 2, tmp_path / "meet", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for step in range(2):
        for name, tensor in first[step].items():
            # Running statistics are each rank's own; nothing is computed from them.
            if "running" not in name:
                assert torch.equal(tensor, second[step][name]), name
    # The judge of the first step has not learned yet.
    assert not torch.equal(
        first[0]["judge.discriminator.main.0.weight"], first[1]["judge.discriminator.main.0.weight"]
    )

    tokenizer = shallow("causal_v1_0")
    before = copies(tokenizer)
    alone = losses(trainer(tokenizer, ADVERSARIAL), clips(2))
    assert first[0]["norm"].item() == pytest.approx(alone["gradient_norm"], rel=1e-3)
    together = torch.cat([(first[0][name] - before[name]).flatten() for name in before])
    assert_same_first_step(moves(tokenizer, before), together)

    tokenizer = shallow("causal_v1_0")
    trainer(tokenizer, PLAIN).train_on(clips(4))
    parts = [torch.load(tmp_path / f"parts-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*parts)
    assert_same_first_step(moves(tokenizer, before), parts[0])

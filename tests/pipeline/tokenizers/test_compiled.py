"""`compile: true`: one graph per shape with the same cells, or one line."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.job import JobConfig, TokenizerSpec
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.job.config_checks import facts_faults
from pipeline.job.resources import allocate
from pipeline.tokenizers import models, vidtok_adapter
from pipeline.tokenizers.checks import known_facts
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import encoder_of
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.vidtok.small import small
from vidtok import ops

COLUMN = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint16",
    axes=("t", "h", "w"),
    model="m",
    fingerprint="f",
    codebook_size=512,
)
ONE_LEVEL = {"spatial_ds": (0,), "spatial_us": (1,), "tempo_ds": (0,), "tempo_us": (1,)}


VALUES: dict[str, Any] = {
    "source": {"uri": "x"},
    "clip": {"height": 64, "width": 64, "whole": True},
    "tokenizers": [
        {"name": "a", "model": "vidtok_fsq_causal_488_32768_v1_1", "compile": True},
        {"name": "b", "model": "other:model", "compile": True},
    ],
    "output": {"uri": "out"},
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ops, "is_cpu", lambda _: False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def encoder(network: str, *, compiled: bool) -> ClipEncoder:
    model = VidTok(small(network, ch_mult=(1, 1), **ONE_LEVEL))
    if compiled:
        model.compile()
    return ClipEncoder(model, COLUMN, batch=2)


def frames(network: str, width: int) -> np.ndarray:
    shape = (2, 4 if network == "noncausal" else 5, 8, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("network", "widths"),
    [("causal_v1_0", (8,)), ("causal_v1_1", (8, 12, 8)), ("noncausal", (8,))],
)
def test_each_shape_is_captured_whole_and_once(
    network: str, widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def kept(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(vidtok_adapter, "COMPILER", kept)
    plain, compiled = (encoder(network, compiled=compiled) for compiled in (False, True))
    for width in widths:
        clips = frames(network, width)
        cells, finite = compiled(clips)
        assert finite.all()
        assert len(np.unique(cells["fsq"])) > 8
        np.testing.assert_array_equal(cells["fsq"], plain(clips)[0]["fsq"])
    assert len(graphs) == len(set(widths))


def test_other_tokenizers_and_whole_videos_are_refused() -> None:
    config = JobConfig.model_validate(VALUES)
    facts = known_facts(config.tokenizers[0].model)
    assert facts is not None
    [whole] = facts_faults(config, 0, facts)
    assert str(whole).startswith("tokenizers.0.compile = true: chunks of whole videos")
    foreign, _ = facts_faults(config, 1, facts)
    assert str(foreign) == (
        "tokenizers.1.compile = true: only models of this package are compiled; leave it out"
    )


def test_only_a_gpu_gets_a_compiled_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(VidTok, "compile", lambda self: compiled.append(self))
    monkeypatch.setattr(models, "lane_to", lambda device: None)  # `meta` has no streams
    model = VidTok(small("causal_v1_1"))
    for device in ("cpu", "meta"):
        spec = TokenizerSpec(name="fsq", model="m", compile=True)
        encoder_of(model, spec, COLUMN, device)
        assert compiled == [model] * (device == "meta")
    encoder_of(model, TokenizerSpec(name="fsq", model="m"), COLUMN, "meta")
    assert len(compiled) == 1


def test_a_job_on_cpus_is_refused() -> None:
    config = JobConfig.model_validate(VALUES)
    with pytest.raises(ConfigError, match=r"tokenizers\.0\.compile = true: needs GPUs; leave"):
        allocate(config, cpus=4, gpus=0, units=1)
    assert allocate(config, cpus=4, gpus=1, units=1).device == "cuda"


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise OSError("no compiler\nhere")

    monkeypatch.setattr(vidtok_adapter, "COMPILER", broken)
    with pytest.raises(
        ConfigError, match=r"^compile = true: .*no compiler here.*; leave it out"
    ) as it:
        encoder("causal_v1_1", compiled=True)(frames("causal_v1_1", 8))
    assert "\n" not in str(it.value)

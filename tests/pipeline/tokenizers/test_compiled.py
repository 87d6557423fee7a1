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
from pipeline.tokenizers import vidtok_adapter
from pipeline.tokenizers.checks import known_facts
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import encoder_of
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.vidtok.small import small

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


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def encoder(network: str, **settings: Any) -> ClipEncoder:
    model = VidTok(small(network, ch_mult=(1, 1), **ONE_LEVEL))
    return encoder_of(model, TokenizerSpec(name="fsq", model="m", **settings), COLUMN, "cpu")


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
    plain, compiled = encoder(network), encoder(network, compile=True)
    for width in widths:
        clips = frames(network, width)
        cells, finite = compiled(clips)
        assert finite.all()
        assert len(np.unique(cells["fsq"])) > 8
        np.testing.assert_array_equal(cells["fsq"], plain(clips)[0]["fsq"])
    assert len(graphs) == len(set(widths))


def test_other_tokenizers_and_whole_videos_are_refused() -> None:
    values: dict[str, Any] = {
        "source": {"uri": "x"},
        "clip": {"height": 64, "width": 64, "whole": True},
        "tokenizers": [
            {"name": "a", "model": "vidtok_fsq_causal_488_32768_v1_1", "compile": True},
            {"name": "b", "model": "other:model", "compile": True},
        ],
        "output": {"uri": "out"},
    }
    config = JobConfig.model_validate(values)
    facts = known_facts(config.tokenizers[0].model)
    assert facts is not None
    [whole] = facts_faults(config, 0, facts)
    assert str(whole).startswith("tokenizers.0.compile = true: chunks of whole videos")
    foreign, _ = facts_faults(config, 1, facts)
    assert str(foreign) == (
        "tokenizers.1.compile = true: only models of this package are compiled; leave it out"
    )


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise OSError("no compiler\nhere")

    monkeypatch.setattr(vidtok_adapter, "COMPILER", broken)
    with pytest.raises(
        ConfigError, match=r"^compile = true: .*no compiler here.*; leave it out"
    ) as it:
        encoder("causal_v1_1", compile=True)(frames("causal_v1_1", 8))
    assert "\n" not in str(it.value)

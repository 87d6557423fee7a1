"""Tokenizers by name: this package's, those of diffusers, and those of other packages."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.commands import main
from pipeline.config.job import JobConfig, TokenizerSpec
from pipeline.errors import ConfigError
from pipeline.job.setup import open_tokenizers
from pipeline.tokenizers import models
from pipeline.tokenizers.checks import tokenizer_faults
from pipeline.tokenizers.protocol import Encoded, Facts, Lengths, VideoTokenizer

ACME = '''
import torch
from pipeline.tokenizers.protocol import Encoded, Facts, Lengths

class Mean(torch.nn.Module):
    """A learned codebook of greys: the mean of 4x4 pixels in steps."""

    facts = Facts(kind="indices", channels=1, codebook_size=100, temporal_factor=1,
                  spatial_factor=4, lengths=Lengths(least=2))

    def __init__(self, steps):
        super().__init__()
        self.steps = torch.nn.Parameter(torch.tensor(steps))
        self.config = {"steps": steps}

    def module(self):
        return self

    def encode(self, video):
        grey = torch.nn.functional.avg_pool3d(video.mean(1, keepdim=True), (1, 4, 4))
        indices = ((grey[:, 0] + 1) * self.steps.detach()).round().to(torch.int32)
        return Encoded(grey, indices=indices)

    def decode(self, cells, num_frames):
        grey = (cells / self.steps.detach() - 1)[:, None].expand(-1, 3, -1, -1, -1)
        return torch.nn.functional.interpolate(grey, scale_factor=(1, 4, 4))

def make(name, weights):
    if name != "mean":
        raise LookupError(f"acme has no {name},\\nonly mean")
    return Mean(float(weights))
'''


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers itself."""
    (tmp_path / "acme_tokens.py").write_text(ACME)
    info = tmp_path / "acme_tokens-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tokens\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vidtok_pipeline.tokenizers]\nacme = acme_tokens:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def job(frames: int = 3) -> JobConfig:
    return JobConfig.model_validate(
        {
            "source": {"uri": "x"},
            "clip": {"frames": frames, "height": 16, "width": 24},
            "tokenizers": [{"name": "grey", "model": "acme:mean", "weights": "40"}],
            "output": {"uri": "out"},
        }
    )


def test_a_tokenizer_of_another_package(acme: None) -> None:
    config = job()
    tokenizers = open_tokenizers(config)
    [column], [digest] = tokenizers.columns, tokenizers.digests
    assert (column.kind, column.dtype, column.codebook_size) == ("indices", "uint8", 100)
    assert tokenizers.identity["tokenizers"]["grey"]["config"] == {"steps": 40.0}  # type: ignore[index]
    assert len(digest.probe) == 64
    [spec] = config.tokenizers
    encoder = models.open_encoder(spec, column, digest=digest, device="cpu")
    frames = np.full((2, 3, 16, 24, 3), 255, np.uint8)
    cells, finite = encoder(frames)
    assert finite.all()
    assert cells["grey"].shape == (2, 3, 4, 6)
    assert (cells["grey"] == 80).all()
    row = {"grey": cells["grey"][0].tobytes(), "grey_shape": [3, 4, 6]}
    assert encoder.psnr(row, frames[0]) > 60
    assert isinstance(models.open_tokenizer(spec), VideoTokenizer)


def test_its_facts_and_errors_are_ours(acme: None) -> None:
    with pytest.raises(
        ConfigError, match=r"clip\.frames = 1: acme:mean takes 2 frames or more; us"
    ):
        open_tokenizers(job(1))
    spec = TokenizerSpec(name="grey", model="acme:median", weights="40")
    with pytest.raises(ConfigError) as caught:
        models.open_tokenizer(spec)
    assert str(caught.value) == ("tokenizer grey: weights = 40: acme has no median, only mean")


def test_a_model_that_cuts_without_a_word_is_refused(
    acme: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = models.open_tokenizer(job().tokenizers[0])
    real = type(tokenizer).decode
    monkeypatch.setattr(type(tokenizer), "decode", lambda *a: real(*a)[:, :, :-1])
    with pytest.raises(ConfigError, match="acme:mean: 3 frames are decoded as 2"):
        open_tokenizers(job())


@pytest.mark.parametrize(
    ("model", "weights", "text"),
    [
        (
            "acme:mean",
            "x",
            "no installed package registers tokenizers as acme, only diffusers; see",
        ),
        ("diffusers:AutoencoderKLWann", "x", "class has this name; use AutoencoderKLWan"),
        (
            "diffusers:AutoencoderKLAllegro",
            "x",
            "is not supported: it encodes in overlapping tiles",
        ),
        ("diffusers:AutoencoderKLWan", None, "must be a folder in the layout of diffusers, a file"),
        ("diffusers:AutoencoderKLWan", "./nothing", "./nothing: no such file or folder"),
        ("diffusers:AutoencoderKLWan", "s3://x/y", "a path that every node can read; copy it"),
        ("vidtok_fsq", None, "no model has this name; did you mean"),
    ],
)
def test_a_wrong_name_is_one_line(model: str, weights: str | None, text: str) -> None:
    [fault] = tokenizer_faults(model, weights)
    assert text in str(fault)


def test_the_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    path = tmp_path / "job.yaml"
    path.write_text(
        "source: {uri: x}\nclip: {frames: 5, height: 32, width: 32}\noutput: {uri: out}\n"
        "tokenizers: [{name: wan, model: 'diffusers:AutoencoderKLWan', weights: w/w}]\n"
    )
    assert main(["plan", str(path)]) == 2
    line = "diffusers is not installed; pip install 'vidtok-pipeline[diffusers]'"
    assert line in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("lengths", "text", "near"),
    [
        (Lengths(), "1 frame or more", {0: [1], 7: [7]}),
        (Lengths(multiple=4, least=4), "a multiple of 4 frames", {1: [4], 17: [16, 20]}),
        (Lengths(multiple=4, remainders=(1,)), "1 + 4k frames", {16: [13, 17], 1: [1]}),
        (
            Lengths(multiple=8, remainders=(0, 1)),
            "8k or 1 + 8k frames",
            {12: [9, 16], 2: [1, 8], 0: [1]},
        ),
    ],
)
def test_rules_of_lengths(lengths: Lengths, text: str, near: dict[int, list[int]]) -> None:
    assert str(lengths) == text
    assert {n: lengths.near(n) for n in near} == near


def test_facts_survive_json() -> None:
    facts = Facts(kind="latents", channels=2, temporal_factor=4, spatial_factor=8)
    assert Facts.from_dict(facts.to_dict()) == facts
    assert facts.latent_shape(9, 16, 24) == (2, 3, 2, 3)
    for shape in ((0, 16, 16), (9, 12, 16), (9, 16, 0)):
        with pytest.raises(ValueError, match="does not take clips"):
            facts.latent_shape(*shape)
    assert isinstance(Encoded(torch.zeros(1)).latent, torch.Tensor)

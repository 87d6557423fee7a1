"""The fingerprint changes with all that changes the tokens, and with nothing else."""

import json
from typing import Any

import pytest
import torch

import vidtok
from pipeline.config.job import JobConfig, TokenizerSpec
from pipeline.dataset.metadata import Digest, fingerprint_of, new_dataset
from pipeline.dataset.schema import TokenizerColumn, clip_schema, tokenizer_columns
from pipeline.errors import ConfigError
from pipeline.records import Bucket, from_json, to_json
from pipeline.tokenizers import models
from pipeline.tokenizers.checks import is_untrained
from pipeline.tokenizers.identity import identity, tokenizer_column
from pipeline.tokenizers.models import (
    Description,
    describe,
    open_encoder,
    open_same_tokenizer,
    open_tokenizer,
)
from pipeline.tokenizers.protocol import VideoTokenizer
from pipeline.tokenizers.vidtok_adapter import VidTok
from vidtok.digest import weights_digest

SQUARE = {"frames": 17, "height": 128, "width": 128}
WIDE = {"frames": 17, "height": 96, "width": 160}
FSQ, KL = "vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny"


def job(**changes: Any) -> JobConfig:
    values: dict[str, Any] = {
        "source": {"uri": "x"},
        "clip": {"frames": 17, "height": 128, "width": 128, "fps": 8.0},
        "tokenizers": [
            {"name": "fsq", "model": FSQ, "weights": "w"},
            {"name": "kl", "model": KL, "weights": "w"},
        ],
        "output": {"uri": "out"},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        node: Any = values
        for part in parents:
            node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
        node[last] = value
    return JobConfig.model_validate(values)


def fingerprint(config: JobConfig, fsq_weights: str = "a") -> str:
    weights = {"fsq": fsq_weights, "kl": "b"}
    described = {
        spec.name: described_as(spec, weights.get(spec.name, "a")) for spec in config.tokenizers
    }
    return fingerprint_of(identity(config, described))


def described_as(spec: TokenizerSpec, weights: str) -> Description:
    model = VidTok(vidtok.build(spec.model))
    return Description(model.facts, model.config, Digest(weights))


def test_it_changes_with_the_order_of_buckets_that_decides_ties() -> None:
    one, other = (job(clip={"buckets": shapes}) for shapes in ([SQUARE, WIDE], [WIDE, SQUARE]))
    assert fingerprint(one) != fingerprint(other)
    assert list(new_dataset((), {"clip": other.clip.identity()}).buckets) == [
        Bucket(**WIDE),
        Bucket(**SQUARE),
    ]
    assert list(new_dataset((), {"clip": job().clip.identity()}).buckets) == [Bucket(**SQUARE)]


@pytest.mark.parametrize(
    "change",
    [
        {"clip__fps": 4.0},
        {"clip__frames": 13},
        {"clip__short": "pad"},
        {"clip__resize": "float32"},
        {"clip": {"fps": 8.0, "buckets": [SQUARE, WIDE]}},
        {"tokenizers__0__precision": "bf16"},
        {"tokenizers__0__compile": True},
        {"tokenizers__1__dtype": "float32"},
        {"tokenizers__1__dtype": "uint8"},
        {"tokenizers__1__logvar": True},
        {"tokenizers__0__name": "codes"},
        {"tokenizers__0__scale": "1/2"},
        {"tokenizers__1__every": 2},
        {"tokenizers__0__hold": {"max_loss_db": 0.2}},
    ],
)
def test_it_changes_with_what_changes_tokens(change: dict[str, Any]) -> None:
    assert fingerprint(job(**change)) != fingerprint(job())


def test_it_changes_with_the_bits_of_latents() -> None:
    one, same, other = (
        job(tokenizers__1__dtype="uint8", tokenizers__1__bits=bits) for bits in (None, 8, 7)
    )
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    specs = [each.tokenizers[1] for each in (one, other)]
    columns = [tokenizer_column(spec, described_as(spec, "b"), one.clip) for spec in specs]
    assert [(c.dtype, c.bits, c.scale_columns) for c in columns] == [
        ("uint8", 8, ("kl_scale",)),
        ("uint8", 7, ("kl_scale",)),
    ]
    described = {spec.name: described_as(spec, "") for spec in job().tokenizers}
    assert "compile" not in identity(job(), described)["tokenizers"]["kl"]
    assert "bits" not in identity(job(), described)["tokenizers"]["kl"]


def test_a_column_of_the_whole_clip_says_nothing_of_scale_and_every() -> None:
    one, other = (
        job(tokenizers__0__every=1),
        job(tokenizers__0__scale="1/4", tokenizers__0__every=3),
    )
    described = {spec.name: described_as(spec, "a") for spec in one.tokenizers}
    made, columns = [], []
    for config in (one, other):
        made.append(identity(config, described)["tokenizers"]["fsq"])
        columns.append(tokenizer_column(config.tokenizers[0], described["fsq"], config.clip))
    assert made[1] == made[0] | {"scale": 4, "every": 3}
    assert fingerprint(one) == fingerprint(job()) != fingerprint(other)
    assert columns[0].fingerprint != columns[1].fingerprint
    plain, told = (json.loads(to_json(column)) for column in columns)
    assert {"scale", "every"}.isdisjoint(plain)
    assert (told["scale"], told["every"]) == (4, 3)
    for column in columns:
        assert tokenizer_columns(clip_schema([column])) == (column,)
        assert from_json(TokenizerColumn, to_json(column)) == column
    assert "scale" not in clip_schema([columns[0]]).metadata[b"vidtok"].decode()


def test_it_changes_with_the_weights() -> None:
    assert fingerprint(job(), "other") != fingerprint(job())


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizers__0__batch": 2},
        {"tokenizers__0__weights": "a copy elsewhere"},
        {"source__uri": "y"},
        {"decode__timeout_s": 9.0},
        {"tokenize__actors": 3},
        {"output__uri": "elsewhere"},
    ],
)
def test_it_does_not_change_with_anything_else(change: dict[str, Any]) -> None:
    assert fingerprint(job(**change)) == fingerprint(job())


def test_a_columns_fingerprint_is_its_own() -> None:
    config = job()
    spec = config.tokenizers[0]
    described = described_as(spec, "a")
    one = tokenizer_column(spec, described, config.clip)
    assert (one.kind, one.dtype, one.axes, one.codebook_size) == (
        "indices",
        "uint32",
        ("t", "h", "w"),
        262144,
    )
    other_clip = job(clip__fps=4.0).clip
    assert tokenizer_column(spec, described, other_clip).fingerprint != one.fingerprint


def test_the_digest_of_weights_is_of_their_values() -> None:
    model = vidtok.build(FSQ, seed=3)
    digest = weights_digest(model.state_dict())
    assert digest == weights_digest(vidtok.build(FSQ, seed=3).state_dict())
    assert digest != weights_digest(vidtok.build(FSQ, seed=4).state_dict())
    half = model.to(torch.bfloat16)
    assert weights_digest(half.state_dict()) == weights_digest(half.to(torch.float32).state_dict())


def test_untrained_models_are_the_same_on_every_node() -> None:
    spec = TokenizerSpec(name="fsq", model=FSQ, weights="random")
    assert is_untrained(spec)
    assert not is_untrained(TokenizerSpec(name="fsq", model=FSQ))
    before = torch.random.get_rng_state()
    assert describe(open_tokenizer(spec), spec) == describe(open_tokenizer(spec), spec)
    assert torch.equal(before, torch.random.get_rng_state()), "nobody else's numbers change"


def test_a_released_model_without_weights_is_refused() -> None:
    spec = TokenizerSpec(name="fsq", model="vidtok_fsq_causal_488_32768")
    with pytest.raises(ConfigError, match=r"^tokenizer fsq: weights: the package has no weights"):
        open_tokenizer(spec)


def test_a_node_with_other_weights_is_refused() -> None:
    config = job()
    spec = TokenizerSpec(name="fsq", model=FSQ)
    column = tokenizer_column(spec, described_as(spec, "0" * 32), config.clip)
    with pytest.raises(ConfigError, match="copy the same file to every node"):
        open_encoder(spec, column, digest=Digest("0" * 32), device="cpu")


def test_columns_of_one_model_share_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(
        tokenizers=[
            {"name": "a", "model": FSQ},
            {"name": "b", "model": FSQ, "scale": "1/2"},
            {"name": "c", "model": FSQ, "every": 2, "precision": "bf16"},
        ]
    )
    described = describe(open_tokenizer(config.tokenizers[0]), config.tokenizers[0])
    columns = [tokenizer_column(spec, described, config.clip) for spec in config.tokenizers]
    opened = []

    def counted(spec: TokenizerSpec, digest: Digest) -> VideoTokenizer:
        opened.append(spec.name)
        return open_same_tokenizer(spec, digest)

    monkeypatch.setattr(models, "open_same_tokenizer", counted)
    encoders = models.open_encoders(config.tokenizers, columns, [described.digest] * 3, "cpu")
    assert opened == ["a", "c"]
    assert [encoder.column.name for encoder in encoders] == ["a", "b", "c"]


def test_weights_that_do_not_fit_are_a_fault_of_the_configuration(tmp_path: Any) -> None:
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": {"encoder.x": torch.zeros(1)}}, path)
    spec = TokenizerSpec(name="fsq", model=FSQ, weights=str(path))
    with pytest.raises(ConfigError, match=r"tokenizer fsq: weights = .*missing"):
        open_tokenizer(spec)


def test_what_is_not_weights_is_a_fault_of_the_configuration(tmp_path: Any) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    spec = TokenizerSpec(name="fsq", model=FSQ, weights=str(path))
    with pytest.raises(ConfigError, match=r"w\.safetensors: is a Git LFS pointer.*`git lfs pull`"):
        open_tokenizer(spec)

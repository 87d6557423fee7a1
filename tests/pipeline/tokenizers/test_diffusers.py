"""Autoencoders of diffusers as tokenizers: their own bits, refused lengths, and nothing silent."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pipeline
import vidtok
from pipeline.dataset.metadata import Digest, open_dataset, read_dataset
from pipeline.errors import ConfigError, DatasetMismatch
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.lineup import line_up
from pipeline.job.setup import open_tokenizers
from pipeline.operations.report.html import write_html
from pipeline.operations.show import show_picture
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.reading.columns import Columns, normalized
from pipeline.storage.store import Store
from pipeline.tokenizers import probe
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.diffusers_adapter import Diffusers
from pipeline.tokenizers.identity import tokenizer_column
from pipeline.tokenizers.models import (
    Description,
    describe,
    encoder_of,
    open_encoder,
    open_tokenizer,
)
from tests.pipeline.fakes import FSQ, KL
from tests.pipeline.tokenized import VIDEOS, tokenized
from tests.pipeline.tokenizers.small_vaes import SMALL, job, make, save, spec
from vidtok.config import TokenizerConfig

VALID = {
    **{name: {1, 5, 9, 17, 25} for name in SMALL},
    "AutoencoderKLLTX2Video": {1, 9, 17, 25},
    "AutoencoderKLCogVideoX": {1, 8, 9, 16, 17, 24, 25},
    "AutoencoderKLMochi": {1, 25},
}
"""Lengths among `TRIED` that come back whole."""

TRIED = (1, 4, 5, 8, 9, 16, 17, 24, 25)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("wan") / "vae", "AutoencoderKLWan")


@pytest.mark.parametrize("name", SMALL)
def test_cells_are_the_library_s_own_bits_and_come_back(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "vae", name)
    config = spec(folder, name, dtype="float32", logvar=name != "AutoencoderKLCosmos")
    tokenizer = open_tokenizer(config)
    column = tokenizer_column(config, describe(tokenizer, config), job(tmp_path, config).clip)
    encoder = encoder_of(tokenizer, config, column, "cpu")
    frames, side = 25, 2 * tokenizer.facts.spatial_factor
    clips = np.random.default_rng(1).integers(0, 256, (2, frames, side, side, 3), np.uint8)
    with job_arithmetic(1):
        cells, finite = encoder(clips)
        x = (torch.from_numpy(clips[1:]).float() / 255 - 0.5) / 0.5
        x = x.permute(0, 4, 1, 2, 3).contiguous()
        if name == "AutoencoderVidTok":
            x = torch.cat([x[:, :, :1]] * 3 + [x], 2)
        vae = make(name)
        if name == "AutoencoderKLHunyuanVideo":
            vae.use_framewise_encoding = False  # on by default: it blends runs of 16 frames
        with torch.no_grad():
            posterior = vae.encode(x).latent_dist
    assert finite.all()
    assert (cells["x"][1] == posterior.mode()[0].numpy()).all()
    if config.logvar:
        assert (cells["x_logvar"][1] == posterior.logvar[0].numpy()).all()
    shape = tokenizer.facts.latent_shape(frames, side, side)
    assert cells["x"].shape[1:] == shape
    row = {"x": cells["x"][0].tobytes(), "x_shape": shape}
    assert np.isfinite(encoder.psnr(row, clips[0]))


@pytest.mark.parametrize("name", SMALL)
def test_the_rule_of_lengths_is_what_comes_back(name: str) -> None:
    tokenizer = Diffusers(make(name))
    side = 2 * tokenizer.facts.spatial_factor
    whole = set()
    for frames in TRIED:
        try:
            latent = tokenizer.encode(probe.clip(frames, side)).latent
            if tokenizer.decode(latent, frames).shape[2] == frames:
                whole.add(frames)
        except RuntimeError:
            continue
    assert whole == {n for n in TRIED if n in tokenizer.facts.lengths} == VALID[name]
    probe.prove_lengths(tokenizer, name, whole)
    for frames in set(TRIED) - whole:
        assert frames not in tokenizer.facts.lengths.near(frames)
    tokenizer.facts = replace(tokenizer.facts, lengths=type(tokenizer.facts.lengths)())
    with pytest.raises((ConfigError, RuntimeError)):  # the proof does not rely on the rule
        probe.prove_lengths(tokenizer, name, [4])


@pytest.mark.parametrize(
    ("name", "clip", "line"),
    [
        (
            "AutoencoderKLWan",
            {"frames": 16},
            "clip.frames = 16: diffusers:AutoencoderKLWan takes 1 + 4k frames; use 13 or 17",
        ),
        (
            "AutoencoderKLCogVideoX",
            {"frames": 12},
            "clip.frames = 12: diffusers:AutoencoderKLCogVideoX takes 8k or 1 + 8k frames; use 9",
        ),
        (
            "AutoencoderKLWan",
            {"width": 44},
            "clip.width = 44: diffusers:AutoencoderKLWan takes a multiple of 8 pixels; use 40",
        ),
    ],
)
def test_a_wrong_shape_names_the_nearest(
    name: str, clip: dict[str, Any], line: str, tmp_path: Path
) -> None:
    config = job(tmp_path, spec(save(tmp_path / "vae", name), name), **clip)
    with pytest.raises(ConfigError) as caught:
        open_tokenizers(config)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_two_threads_do_not_share_a_cache(wan: str) -> None:
    tokenizer = open_tokenizer(spec(wan))
    clips = [
        torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (1, 2)
    ]
    with job_arithmetic(1):
        alone = [tokenizer.encode(clip).latent for clip in clips]
        found: list[list[torch.Tensor]] = [[], []]

        def work(n: int) -> None:
            found[n] = [tokenizer.encode(clips[n]).latent for _ in range(5)]

        threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n in (0, 1):
        assert len(found[n]) == 5
        assert all(torch.equal(latent, alone[n]) for latent in found[n])


@pytest.fixture(scope="module")
def store(wan: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "in").mkdir()
    shutil.copy(VIDEOS / "hiker_tiny.mp4", folder / "in")
    return tokenized(job(folder, spec(wan)))


def test_a_dataset_s_column_says_how_to_normalise(store: Store) -> None:
    snapshot = pipeline.open(store.uri)
    rule = snapshot.tokenizers[0].normalize
    assert rule is not None
    assert rule.shift == (0.1, -0.2, 0.3, 0.0)
    assert rule.scale == (1.0, 1 / 0.3, 0.5, 0.25)
    plain = json.loads(snapshot.schema.metadata[b"vidtok.x.normalize"])
    assert plain == {"shift": list(rule.shift), "scale": list(rule.scale)}


def test_the_reader_normalises_on_request(store: Store) -> None:
    snapshot = pipeline.open(store.uri)
    [raw] = TokenDataset(snapshot, ["x"], 99, shuffle=False)
    [ready] = TokenDataset(snapshot, ["x"], 99, shuffle=False, normalized=True)
    mean = torch.tensor(SMALL["AutoencoderKLWan"]["latents_mean"]).view(4, 1, 1, 1)
    std = torch.tensor(SMALL["AutoencoderKLWan"]["latents_std"]).view(4, 1, 1, 1)
    assert ready["x"].dtype == torch.float16
    torch.testing.assert_close(
        ready["x"].float(), (raw["x"].float() - mean) / std, atol=2e-3, rtol=1e-3
    )
    assert not torch.equal(ready["x"], raw["x"])


def test_what_examines_datasets_works(store: Store, tmp_path: Path) -> None:
    found = verify(store, retokenize=2, decode=2)
    assert not found.findings
    picture = show_picture(store, str(tmp_path / "p.png"), clips=1)
    assert np.isfinite(picture.psnr_db["x"])
    write_html(store, str(tmp_path / "r.html"))


def test_other_weights_are_refused(store: Store, wan: str, tmp_path: Path) -> None:
    other = spec(save(tmp_path / "other", "AutoencoderKLWan", seed=1))
    column = read_dataset(store).tokenizers[0]
    with pytest.raises(ConfigError, match="copy the same file to every node"):
        open_encoder(other, column, digest=read_dataset(store).digest("x"), device="cpu")
    config = job(tmp_path, other)
    with pytest.raises(DatasetMismatch, match=r"identity|tokenizers\.x\.weights"):
        open_dataset(store, open_tokenizers(config).dataset(config))


def test_a_library_that_moves_the_numbers_is_refused(
    store: Store, wan: str, tmp_path: Path
) -> None:
    config = job(tmp_path, spec(wan))
    then = read_dataset(store)
    now = open_tokenizers(config).dataset(config)
    assert len(now.probes["x"]) == probe.VALUES
    assert open_dataset(store, now) == then
    rounded = [value * (1 + 1e-5) for value in now.probes["x"]]
    assert open_dataset(store, replace(now, probes={"x": rounded})) == then
    moved = [value + 0.01 for value in now.probes["x"]]
    with pytest.raises(DatasetMismatch, match=r"probes\.x: 64 of 64 values .* by up to 0\.01"):
        open_dataset(store, replace(now, probes={"x": moved}))
    digest = Digest(then.digest("x").weights, tuple(moved))
    with pytest.raises(ConfigError, match="the library computes other numbers"):
        open_encoder(spec(wan), then.tokenizers[0], digest=digest, device="cpu")


def test_a_mean_for_each_latent_frame() -> None:
    """Cosmos has one, in the order of channels, then latent frames."""
    facts = Diffusers(make("AutoencoderKLCosmos")).facts
    assert facts.normalize is not None
    config = spec("w", "AutoencoderKLCosmos")
    described = Description(facts, {}, Digest(""))
    column = tokenizer_column(config, described, job(Path("x"), config).clip)
    latent = torch.zeros(2, 4, 3, 1, 1)
    ready = normalized(latent, column)
    shift, scale = facts.normalize.shift, facts.normalize.scale
    assert ready[1, 2, 1, 0, 0] == -torch.tensor(shift[2 * 64 + 1]) * torch.tensor(
        scale[2 * 64 + 1]
    )


def test_no_normalisation_is_no_silence() -> None:
    columns = [replace(KL, normalize=None), FSQ]
    with pytest.raises(ConfigError, match=r"normalized = True: column kl: no normalisation of"):
        Columns(columns, ["kl"], normalize=True)
    Columns(columns, ["fsq"], normalize=True)
    Columns(columns, ["kl"])


def test_an_evaluation(wan: str) -> None:
    config = EvaluationConfig.model_validate(
        {
            "source": "x",
            "tokenizers": [{"name": "x", "model": "diffusers:AutoencoderKLWan", "weights": wan}],
            "output": "x",
            "clip": {"height": 32, "width": 32},
            "kl_latent": "sample",
        }
    )
    lineup = line_up(config, "cpu")
    assert list(lineup.groups) == [17]
    video = probe.clip(17, 32)
    for candidate in lineup.groups[17]:
        assert candidate.reconstruct(video, "a").video.shape == video.shape
    wrong = config.model_copy(update={"clip": config.clip.model_copy(update={"frames": 16})})
    with pytest.raises(ConfigError, match=r"clip\.frames = 16: .* use 13 or 17"):
        line_up(wrong, "cpu")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _other_class(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("AutoencoderKLWan", "AutoencoderKLMochi"))


def _no_tensor(folder: Path) -> None:
    [file] = folder.glob("*.safetensors")
    tensors = make("AutoencoderKLWan").state_dict()
    del tensors["quant_conv.weight"]
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_no_config, "config.json"),
        (_other_class, "config.json is of AutoencoderKLMochi, not of AutoencoderKLWan"),
        (_no_tensor, "AutoencoderKLWan: 1 missing key, first quant_conv.weight; copy"),
    ],
)
def test_a_wrong_folder_is_one_line(
    damage: Callable[[Path], None], text: str, wan: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(wan, tmp_path / "vae"))
    damage(folder)
    with pytest.raises(ConfigError) as caught:
        open_tokenizer(spec(folder))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_a_pipeline_s_folder_and_an_initialisation(wan: str, tmp_path: Path) -> None:
    wanted = describe(open_tokenizer(spec(wan)), spec(wan))
    [file] = Path(wan).glob("*.safetensors")
    shutil.copytree(wan, tmp_path / "model/vae")
    for weights in (str(file), str(tmp_path / "model")):
        assert describe(open_tokenizer(spec(weights)), spec(weights)) == wanted


def test_what_is_not_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        open_tokenizer(spec("someone/nothing/vae"))
    assert str(caught.value).startswith("tokenizer x: weights = someone/nothing/vae: ")
    assert "\n" not in str(caught.value)


def _vidtok(network: Any, regularizer: Any) -> vidtok.Tokenizer:
    return vidtok.build(
        TokenizerConfig(
            name="small",
            network=network,
            regularizer=regularizer,
            z_channels=4,
            fsq_levels=(8,) * 4 if regularizer == "fsq" else (),
            ch=8,
            ch_mult=(1, 1, 1, 1),
            num_res_blocks=1,
        ),
        seed=5,
    )


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", ["causal_v1_0", "causal_v1_1", "noncausal"])
def test_an_independent_second_vidtok(network: str, regularizer: str) -> None:
    """The library's class agrees with ours, except for causal v1.0, which it does not implement."""
    ours = _vidtok(network, regularizer)
    changes: dict[str, Any] = {"is_causal": network != "noncausal", "regularizer": regularizer}
    if regularizer == "fsq":
        changes |= {"codebook_size": 4096, "double_z": False}
    vae = make("AutoencoderVidTok", **changes)
    vae.load_state_dict(ours.state_dict())
    theirs = Diffusers(vae)
    video = probe.clip(16 if network == "noncausal" else 17, 32)
    one, other = ours.encode(video), theirs.encode(video)
    if network == "causal_v1_0":
        assert (one.latent - other.latent).abs().max() > 0.1
        return
    torch.testing.assert_close(one.latent, other.latent, atol=3e-5, rtol=0)
    frames = video.shape[2]
    if one.indices is None:
        assert other.logvar is not None
        torch.testing.assert_close(one.logvar, other.logvar, atol=3e-5, rtol=0)
        pair = ours.decode(one.latent, frames), theirs.decode(one.latent, frames)
    else:
        assert torch.equal(one.indices, other.indices)  # type: ignore[arg-type]
        pair = ours.decode_indices(one.indices, frames), theirs.decode(one.indices, frames)
    torch.testing.assert_close(*pair, atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", ["metadata", "name"])
def test_weights_of_causal_v1_0_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    named = "vidtok_kl_causal_488_4chn" if kind == "name" else "vae"
    folder = Path(save(tmp_path / named, "AutoencoderVidTok"))
    [file] = folder.glob("*.safetensors")
    if kind == "metadata":
        save_file(
            make("AutoencoderVidTok").state_dict(),
            file,
            {"format": "pt", "vidtok_config": json.dumps({"network": "causal_v1_0"})},
        )
    for weights in (folder, file):
        with pytest.raises(ConfigError, match=r"causal v1\.0, which AutoencoderVidTok does not"):
            open_tokenizer(spec(weights, "AutoencoderVidTok"))


def test_half_precision_is_the_encoder_s(wan: str, tmp_path: Path) -> None:
    config = spec(wan, precision="bf16")
    tokenizers = open_tokenizers(job(tmp_path, config))
    [column], [digest] = tokenizers.columns, tokenizers.digests
    clips = np.zeros((1, 5, 32, 32, 3), np.uint8)
    cells, finite = open_encoder(config, column, digest=digest, device="cpu")(clips)
    assert finite.all()
    assert cells["x"].dtype == np.float16

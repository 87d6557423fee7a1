import json
import os
import pickle
import random
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import checkpoint
from vidtok.__main__ import main

TINY = "vidtok_fsq_causal_488_262144_tiny"


class _Foreign:
    """Something that a pickle may hold and nobody should open."""


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint as training leaves it: the network, the loss, an average, the optimisers."""
    state = dict(vidtok.build(TINY, seed=5).state_dict())
    state["loss.logvar"] = torch.zeros(())
    state["loss.discriminator.main.0.weight"] = torch.zeros(64, 3, 4, 4)
    state["model_ema.decay"] = torch.tensor(0.9)
    path = tmp_path / f"{TINY}.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{"lr": 1e-5}]}, path)
    return path


def _equal(one: vidtok.Tokenizer, other: vidtok.Tokenizer) -> bool:
    mine, yours = one.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)


def test_a_released_checkpoint_loads_by_its_file_s_name(released: Path) -> None:
    model = vidtok.load(released)
    assert model.config.name == TINY
    assert not model.training
    assert _equal(model, vidtok.build(TINY, seed=5))


def test_loads_into_a_precision(released: Path) -> None:
    model = vidtok.load(released, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    model.encode(synthetic_video(1, 5, 16, 16))


def test_a_converted_file_carries_its_own_configuration(released: Path, tmp_path: Path) -> None:
    target = tmp_path / "renamed.safetensors"
    assert main(["convert", str(released), str(target)]) == 0
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["vidtok_config"])["name"] == TINY
    model = vidtok.load(target)
    assert metadata["vidtok_config_digest"] == model.config.digest
    assert _equal(model, vidtok.load(released))
    half = tmp_path / "half.safetensors"
    assert main(["convert", str(released), str(half), "--half"]) == 0
    assert half.stat().st_size < 0.52 * target.stat().st_size
    for name, tensor in vidtok.load(half).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_a_name_that_says_nothing_needs_a_configuration(released: Path) -> None:
    renamed = released.rename(released.with_name("model.ckpt"))
    with pytest.raises(ValueError, match="give config=NAME"):
        vidtok.load(renamed)
    assert vidtok.load(renamed, config=TINY).config.name == TINY
    with pytest.raises(ValueError, match="no tokenizer is called 'nope'"):
        vidtok.load(renamed, config="nope")


def test_a_file_s_own_configuration_is_not_overruled(released: Path, tmp_path: Path) -> None:
    target = tmp_path / "own.safetensors"
    checkpoint.save(vidtok.load(released), target)
    with pytest.raises(ValueError, match="has the configuration of"):
        vidtok.load(target, config="vidtok_kl_causal_488_8chn_tiny")


def test_a_pickle_that_holds_more_than_tensors_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / f"{TINY}.ckpt"
    torch.save({"state_dict": {}, "callbacks": _Foreign()}, path)
    with pytest.raises(ValueError, match=r"_Foreign.*is not opened.*torch\.save"):
        vidtok.load(path)


def test_what_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    path = tmp_path / f"{TINY}.ckpt"
    path.write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ValueError, match=f"{TINY}.ckpt"):
        vidtok.load(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="holds no state_dict of tensors"):
        vidtok.load(path)
    torch.save({0: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no state_dict of tensors"):
        vidtok.load(path)
    other = tmp_path / "weights.bin"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.ckpt"):
        vidtok.load(other)


def damaged(sound: bytes) -> dict[str, tuple[bytes, str]]:
    """Return what is found in the place of weights: content, and what the error says of it."""
    length = min(1000, int.from_bytes(sound[:8], "little"))
    other = sound[:8] + b"[" * length + sound[8 + length :]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return {
        "empty": (b"", "is empty; copy or download"),
        "pointer": (pointer, "is a Git LFS pointer, not the weights; run `git lfs pull`"),
        "page": (b"\n<!DOCTYPE html><title>Sign in</title>", "is a web page"),
        "header": (sound[:20], "not a whole"),
        "data": (sound[:-100], "not a whole"),
        "json": (other, "not a whole"),
    }


@pytest.mark.parametrize("kind", ["empty", "pointer", "page", "header", "data", "json"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_damaged_weights_are_one_line(
    suffix: str, kind: str, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = checkpoint.bundled_weights(TINY)
    assert sound is not None
    content, text = damaged((sound if suffix == "safetensors" else released).read_bytes())[kind]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    text = "" if suffix == "ckpt" and "whole" in text else text
    assert main(["convert", str(path), str(tmp_path / "to.safetensors"), "--config", TINY]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: {text}")


def test_a_damaged_checkpoint_is_one_error(released: Path) -> None:
    sound, rng = released.read_bytes(), random.Random(0)
    outcomes = Counter[str]()
    for _ in range(60):
        data = bytearray(sound)
        at = rng.choice([rng.randrange(len(data)), len(data) - rng.randrange(1, 3000)])
        data[at : at + 40] = rng.randbytes(40)
        released.write_bytes(data)
        try:
            vidtok.load(released)
            outcomes["read"] += 1
        except ValueError as error:
            outcomes["refused" if str(released) in str(error) else str(error)] += 1
    assert outcomes.keys() <= {"read", "refused"}
    assert outcomes["refused"] > 10


def test_all_faults_of_the_tensors_are_one_error(released: Path) -> None:
    content = torch.load(released)
    state = content["state_dict"]
    del state["encoder.conv_in.conv.bias"]
    state["encoder.extra"] = torch.zeros(1)
    state["decoder.conv_out.conv.bias"] = torch.zeros(4)
    torch.save(content, released)
    with pytest.raises(ValueError, match="the tensors are not those of") as caught:
        vidtok.load(released)
    text = str(caught.value)
    assert "missing encoder.conv_in.conv.bias" in text
    assert "unexpected encoder.extra" in text
    assert "decoder.conv_out.conv.bias is (4,), not (3,)" in text


def test_only_the_first_of_many_faults_are_named(released: Path) -> None:
    torch.save({"state_dict": {"encoder.extra": torch.zeros(1)}}, released)
    with pytest.raises(ValueError, match=r"missing encoder\.\S+ and \d+ more; name the") as caught:
        vidtok.load(released)
    assert len(str(caught.value)) < 600


def test_a_weight_too_large_for_half_precision_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = vidtok.build(TINY)
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.fill_(-1e6)
    source, target = tmp_path / "big.safetensors", tmp_path / "half.safetensors"
    checkpoint.save(model, source)
    assert main(["convert", str(source), str(target), "--half"]) == 2
    assert f"error: {name}: has values above 65504" in capsys.readouterr().err
    assert not target.exists()


def test_saving_in_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = small("causal_v1_1")
    checkpoint.save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    loaded = vidtok.load(tmp_path / "half.safetensors")
    assert loaded.config == model.config
    assert loaded.dtype == torch.float32
    weights = sum(p.numel() for p in model.parameters())
    assert (tmp_path / "half.safetensors").stat().st_size < 2 * weights + 200_000


def test_a_hub_id_is_downloaded(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    target = tmp_path / "model.safetensors"
    checkpoint.save(vidtok.load(released), target)
    asked = []

    def download(repo: str, filename: str) -> str:
        asked.append((repo, filename))
        return str(target)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    assert vidtok.load("someone/tokenizer").config.name == TINY
    assert vidtok.load("someone/tokenizer/sub/a.safetensors").config.name == TINY
    with pytest.raises(ValueError, match=r"the tensors are not those|has the configuration"):
        vidtok.load("vidtok_kl_causal_488_8chn", config="vidtok_kl_causal_488_8chn")
    assert asked == [
        ("someone/tokenizer", "model.safetensors"),
        ("someone/tokenizer", "sub/a.safetensors"),
        ("microsoft/VidTok", "checkpoints/vidtok_kl_causal_488_8chn.ckpt"),
    ]


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path) -> None:
    """It is one line: the Hub's library neither tries again nor tells of it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen
        hub = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "vidtok", "convert", "someone/tokenizer", "x.safetensors"],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)},
        )
    assert done.returncode == 2
    assert "someone/tokenizer/model.safetensors could not be loaded from the Hub" in done.stderr
    assert "give its path" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere.safetensors", "./nowhere", "nope"])
def test_what_is_nowhere_says_so(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file|must be a file"):
        vidtok.load(name)


def test_a_folder_with_a_model_s_name_does_not_hide_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "vidtok_kl_causal_488_8chn_tiny"
    (tmp_path / name / "1-broad").mkdir(parents=True)
    assert vidtok.load(name).config.name == name
    with pytest.raises(ValueError, match=r"is a folder without config\.json"):
        vidtok.load(tmp_path / name)


def test_commands_tell_about_tokenizers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(vidtok.list_models())
    assert main(["info", "vidtok_kl_noncausal_488_16chn"]) == 0
    told = capsys.readouterr().out
    assert "4k; height and width multiples of 8" in told
    assert "16×4×32×32" in told
    assert main(["info", "nope"]) == 2
    assert capsys.readouterr().err.startswith("error: no tokenizer is called 'nope'")
    assert main(["convert", "a.ckpt", "b.ckpt"]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err

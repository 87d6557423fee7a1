"""`python -m vidtok channels`: files that it replaces, tokens and folders that it accepts."""

import shutil
from pathlib import Path

import pytest

import vidtok
from tests.pipeline.reading.test_token_clips import made, model_of
from vidtok import channel_fit, channels
from vidtok.__main__ import main
from vidtok.digest import weights_digest


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_file_is_replaced(content: bytes, tmp_path: Path) -> None:
    model, path = model_of(tmp_path)
    channels.beside(path).write_bytes(content)
    with pytest.raises(ValueError, match="`python -m vidtok channels` writes one"):
        vidtok.load(path)
    assert main(["channels", str(path), made(model, tmp_path / "out"), "--clips", "8"]) == 0
    assert vidtok.load(path).channels is not None


def test_tokens_with_fewer_channels_belong_to_the_weights_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The identity of such a column is two digests: of the weights, and of a channels file."""
    model, path = model_of(tmp_path)
    own, other = weights_digest(model.state_dict()), "c" * 32
    tokens = made(model, tmp_path / "own", weights=f"{own}+{other}")
    assert main(["channels", str(path), tokens, "--clips", "8"]) == 0
    tokens = made(model, tmp_path / "other", weights=f"{other}+{own}")
    assert main(["channels", str(path), tokens, "--clips", "8"]) == 2
    assert "column fsq: was made with other weights than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("missing/dir/x.channels.safetensors", "error: {}/missing/dir: is not a folder that can"),
        (
            "model.safetensors/x.channels.safetensors",
            "error: {}/model.safetensors: is not a folder",
        ),
        (".", "error: {}: is a folder; name a file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_fit(
    out: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(channel_fit, "fit", None)
    model, path = model_of(tmp_path)
    tokens = made(model, tmp_path / "out")
    assert main(["channels", str(path), tokens, "--clips", "8", "--out", str(tmp_path / out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(says.format(tmp_path))


def test_a_folder_beside_the_weights_is_not_ignored(tmp_path: Path) -> None:
    _, path = model_of(tmp_path)
    folder = channels.beside(path)
    folder.mkdir()
    for opened in (lambda: vidtok.load(path), lambda: channels.read(folder)):
        with pytest.raises(ValueError, match=r"model\.channels\.safetensors: is a folder"):
            opened()
    shutil.rmtree(folder)
    assert vidtok.load(path).channels is None

"""A second, independent reference: `AutoencoderVidTok` of diffusers with our tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidtok
from tests.lazy import diffusers
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import checkpoint
from vidtok.__main__ import main

NETWORKS = ("causal_v1_1", "noncausal")
LEVELS = {"fsq": {"fsq_levels": (8, 8, 8)}, "kl": {}}


def theirs(model: vidtok.Tokenizer, folder: Path) -> Any:
    checkpoint.save_for_diffusers(model, folder)
    return diffusers.AutoencoderVidTok.from_pretrained(folder).eval()


def in_front(model: vidtok.Tokenizer, video: Tensor) -> Tensor:
    """Put the copies of the first frame in front that the class expects of its callers."""
    copies = model.config.temporal_factor - 1 if model.config.causal else 0
    return torch.cat([video[:, :, :1].repeat(1, 1, copies, 1, 1), video], 2)


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_both_implementations_agree(network: str, regularizer: str, tmp_path: Path) -> None:
    model = small(network, regularizer)
    other = theirs(model, tmp_path / "model")
    video = synthetic_video(2, 17 if model.config.causal else 16, 48, 40)
    mine = model.encode(video)
    found = other.encode(in_front(model, video))
    if regularizer == "fsq":
        assert mine.indices is not None
        latent, indices = found
        assert torch.equal(indices, mine.indices)
        assert len(indices.unique()) > 100
    else:
        assert mine.logvar is not None
        latent = found.latent_dist.mode()
        torch.testing.assert_close(found.latent_dist.logvar, mine.logvar, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(latent, mine.latent, atol=3e-5, rtol=1e-5)
    shown = model.decode(mine.latent, num_frames=video.shape[2])
    torch.testing.assert_close(other.decode(mine.latent), shown, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_causal_v1_0_is_another_network(tmp_path: Path) -> None:
    v1_0, v1_1 = small("causal_v1_0"), small("causal_v1_1")
    other = theirs(v1_1, tmp_path / "model")
    other.load_state_dict(v1_0.state_dict(), strict=True)  # which is why no tensor gives it away
    video = synthetic_video(1, 17, 48, 40)
    mine = v1_0.encode(video).indices
    _, indices = other.encode(in_front(v1_0, video))
    assert (indices != mine).float().mean() > 0.5


@pytest.mark.parametrize("network", NETWORKS)
def test_a_folder_gives_the_model_back(network: str, tmp_path: Path) -> None:
    model = small(network, ch_mult=(1, 2, 2), tempo_ds=(1,), tempo_us=(2,))
    checkpoint.save_for_diffusers(model, tmp_path / "mine")
    assert vidtok.load(tmp_path / "mine").config == model.config
    other = diffusers.AutoencoderVidTok.from_pretrained(tmp_path / "mine")
    other.save_pretrained(tmp_path / "theirs")  # without our metadata
    loaded = vidtok.load(tmp_path / "theirs")
    assert loaded.config.digest == model.config.digest
    assert loaded.config.name == "theirs"
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_the_class_s_defaults_are_those_of_a_release(tmp_path: Path) -> None:
    fields = {"_class_name": "AutoencoderVidTok", "z_channels": 4, "regularizer": "kl"}
    for causal, name in ((True, "kl_causal_488_4chn_v1_1"), (False, "kl_noncausal_488_4chn")):
        (tmp_path / "config.json").write_text(json.dumps({**fields, "is_causal": causal}))
        assert checkpoint.diffusers_folder.read_config(tmp_path).name == f"vidtok_{name}"


class TestRefusals:
    def said(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert main(["convert", *map(str, arguments)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    def test_a_v1_0_model_is_not_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundled = vidtok.bundled_weights("vidtok_fsq_causal_488_262144_tiny")
        line = self.said(capsys, bundled, tmp_path / "to", "--to", "diffusers")
        assert "implements v1.1 and non-causal networks" in line
        assert not (tmp_path / "to").exists()

    def test_a_folder_is_not_a_v1_0_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = "vidtok_fsq_causal_488_262144_tiny"
        config = {**vidtok.load(name).config.to_dict(), "network": "causal_v1_1"}
        model = vidtok.build(vidtok.TokenizerConfig.from_dict(config), seed=0)
        checkpoint.save_for_diffusers(model, tmp_path / "folder")
        target = tmp_path / "to.safetensors"
        line = self.said(capsys, tmp_path / "folder", target, "--config", name)
        assert f"(causal_v1_1), not of {name} (causal_v1_0)" in line

    def test_other_levels(self, tmp_path: Path) -> None:
        model = small("causal_v1_1", fsq_levels=(8, 5, 5))
        with pytest.raises(ValueError, match="only 8 levels in every channel"):
            checkpoint.save_for_diffusers(model, tmp_path / "to")

    def test_a_folder_with_files(self, tmp_path: Path) -> None:
        (tmp_path / "note.txt").touch()
        with pytest.raises(ValueError, match="is not empty"):
            checkpoint.save_for_diffusers(small("causal_v1_1"), tmp_path)

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            (None, "is a folder without config.json"),
            ("[]", "not a configuration of diffusers"),
            ("{", "not a configuration of diffusers"),
            ('{"_class_name": "AutoencoderKLWan"}', "is a AutoencoderKLWan; only"),
            ('{"_class_name": "AutoencoderVidTok", "ch": 0.5}', "not the settings of a VidTok"),
            (
                '{"_class_name": "AutoencoderVidTok", "in_channels": 4}',
                "in_channels = 4, must be 3",
            ),
            (
                '{"_class_name": "AutoencoderVidTok", "double_z": false}',
                "double_z = False, must be",
            ),
            ('{"_class_name": "AutoencoderVidTok"}', "has no diffusion_pytorch_model.safetensors"),
        ],
    )
    def test_folders_that_are_no_model(self, config: str | None, says: str, tmp_path: Path) -> None:
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=says):
            vidtok.load(tmp_path)

    def test_weights_of_another_network_than_the_folder_says(self, tmp_path: Path) -> None:
        checkpoint.save_for_diffusers(small("causal_v1_1"), tmp_path / "a")
        path = tmp_path / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"is_causal": False}))
        with pytest.raises(ValueError, match="describes a noncausal model, the weights are of"):
            vidtok.load(tmp_path / "a")

"""The program that writes the weights that the training of a bundled model starts from."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import vidtok
from tests.pipeline.training.runs import CLIPS, LOW, settings
from tools.bundled_models import redraw_blocks, start, warm_start

FSQ = "vidtok_fsq_causal_488_262144_tiny"


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (redraw_blocks, warm_start):
        monkeypatch.setattr(module, "ROWS", 2000)
    monkeypatch.setattr(start, "CLIPS", 4)


def config(folder: Path, **changes: Any) -> Path:
    stages = [{**LOW, "clips": {**CLIPS, "height": 32, "width": 32}}]
    path = folder / "run.yaml"
    path.write_text(json.dumps(settings(folder / "out", stages=stages, **changes)))
    return path


def test_drawn_weights_are_fitted_and_then_stretched(tmp_path: Path) -> None:
    output, stretched = tmp_path / "new/start.safetensors", tmp_path / "stretched.safetensors"
    path = config(tmp_path, model=FSQ, weights=str(output))
    start.main([str(path), str(output)])
    assert vidtok.load(output).config.name == FSQ
    drawn, fitted = vidtok.build(FSQ, seed=23).state_dict(), load_file(output)
    assert not fitted["encoder.conv_in.conv.weight"].equal(drawn["encoder.conv_in.conv.weight"])

    start.main([str(path), str(stretched), "--stretch", str(output)])
    after = load_file(stretched)
    assert {name for name in fitted if not fitted[name].equal(after[name])} == {
        f"{layer}.conv.{tensor}"
        for layer in ("encoder.conv_out", "decoder.conv_in")
        for tensor in ("weight", "bias")
    }


def test_a_kl_tokenizer_has_no_levels_to_stretch(tmp_path: Path) -> None:
    weights = vidtok.bundled_weights("vidtok_kl_causal_488_8chn_tiny")
    output = tmp_path / "start.safetensors"
    with pytest.raises(SystemExit, match="is a KL tokenizer and has no levels"):
        start.main([str(config(tmp_path)), str(output), "--stretch", str(weights)])
    assert not output.exists()


def test_blocks_of_linear_weights_are_drawn_again(tmp_path: Path) -> None:
    weights, output = vidtok.bundled_weights(FSQ), tmp_path / "redrawn.safetensors"
    assert weights is not None
    start.main([str(config(tmp_path, model=FSQ)), str(output), "--redraw", str(weights)])
    before, after = load_file(weights), load_file(output)
    changed = {name for name in before if not before[name].float().equal(after[name].float())}
    assert "decoder.mid.block_1.conv1.conv.weight" in changed
    assert not any("sample" in name or "conv_in" in name for name in changed)

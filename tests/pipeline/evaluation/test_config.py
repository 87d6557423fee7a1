"""Settings of an evaluation: the short form, protocols, and the line that a wrong value gets."""

import subprocess
import sys

import pytest

from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.evaluation.checks import check_evaluation
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.protocols import PROTOCOLS, PUBLISHED
from vidtok.presets import PRESETS

FSQ = "vidtok_fsq_causal_488_262144_tiny"
SHORT = ("source=videos/*.mp4", f"tokenizers=[{FSQ}]", "output=out")


def read(*overrides: str) -> EvaluationConfig:
    return load(None, [*SHORT, *overrides], EvaluationConfig, check_evaluation)


def faults(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    return str(caught.value).splitlines()


def test_the_short_form_says_enough() -> None:
    config = read()
    assert config.source.uri == ["videos/*.mp4"]
    assert (config.tokenizers[0].name, config.tokenizers[0].model) == (FSQ[7:], FSQ)
    assert read("source=[a.tar, b.tar]").source.uri == ["a.tar", "b.tar"]
    assert read(f"tokenizers={FSQ}") == config


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_has_the_published_settings(name: str) -> None:
    config = read(f"protocol={name}")
    clip = config.clip
    assert (clip.height, clip.width, clip.fps, clip.choice) == (256, 256, 30.0, "interval")
    assert (clip.short, clip.frames, clip.per_video) == ("pad", None, None)
    assert (clip.whole_videos, clip.chunk_frames, clip.chunking) == (True, 16, "reference")
    assert config.kl_latent == "sample"
    assert config.is_as_published


def test_what_is_given_beside_a_protocol_stands_above_it() -> None:
    config = read("protocol=mcl-jcv", "clip.height=128", "clip.width=128")
    assert (config.clip.height, config.clip.fps) == (128, 30.0)
    assert not config.is_as_published
    assert not read("protocol=mcl-jcv", "kl_latent=mean").is_as_published
    assert not read().is_as_published


def test_published_results_are_of_models_that_there_are() -> None:
    released = {name for name in PRESETS if "_tiny" not in name}
    missing = released - set(PUBLISHED["mcl-jcv"])
    assert set(PUBLISHED["mcl-jcv"]) <= released
    assert missing == {"vidtok_kl_causal_488_4chn_v1_1", "vidtok_fsq_causal_41616_262144_v1_1"}
    assert PUBLISHED["mcl-jcv"]["vidtok_kl_noncausal_488_16chn"] == (36.13, 0.950, 0.044, 60.5)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("clip.frames=16", f"clip.frames = 16: {FSQ} takes 1 + 4k frames; use 13 or 17"),
        ("clip.height=100", f"clip.height = 100: {FSQ} takes a multiple of 8 pixels"),
        ("tokenizers=[vidtok_fsq]", "tokenizers.0.model = vidtok_fsq: no model has this name"),
        (f"tokenizers=[{FSQ}, {FSQ}]", f"tokenizers.1.name = {FSQ[7:]}: tokenizers.0 already"),
        ("metrics=[psnr, mse]", "metrics.1 = mse: must be 'psnr', 'ssim',"),
        ("clip.height=8", "clip.height = 8: should be greater than or equal to 11"),
        ("metrics=[]", "metrics = []: "),
        ("baselines=[vp9]", "baselines.0 = vp9: must be 'shrink', 'h264',"),
        ("metric_weights.i3d=no.pt", "metric_weights.i3d = no.pt: no such file"),
        ("clip.choice=interval", "clip.choice = interval: the interval is round("),
        ("protocol=mcl", "protocol = mcl: must be 'mcl-jcv' or 'webvid-val'"),
        ("clip.per_vidoe=3", "clip.per_vidoe: no such key; did you mean per_video?"),
        (
            "tokenizers=[{name: a, model: MODEL, weights: no.ckpt}]".replace("MODEL", FSQ),
            "tokenizers.0.weights = no.ckpt: no such file",
        ),
    ],
)
def test_a_wrong_value_is_one_line(override: str, line: str) -> None:
    assert faults(override)[0].startswith(f"command line: {line}")


def test_whole_videos_need_chunks_that_the_network_takes() -> None:
    model = "tokenizers=[{name: a, model: vidtok_fsq_causal_888_32768_v1_1, weights: random}]"
    line = faults(model, "clip.whole_videos=true", "clip.chunk_frames=12")[0]
    assert "= 12: vidtok_fsq_causal_888_32768_v1_1 takes a multiple of 8; use 8 or 16" in line


def test_a_released_model_needs_weights() -> None:
    [line] = faults("tokenizers=[vidtok_fsq_causal_488_32768]")
    assert line.startswith("command line: tokenizers.0.weights: the package has no weights of ")


def test_credentials_do_not_leave_the_configuration() -> None:
    config = read("source={uri: s3://b/x, storage_options: {secret: hush}}")
    assert config.source.storage_options == {"secret": "hush"}
    assert "hush" not in str(config.public())
    assert EvaluationConfig.model_validate(config.public()).clip == config.clip


def test_a_typing_error_is_answered_without_torch_and_ray() -> None:
    program = (
        "import sys\n"
        "from pipeline.commands import main\n"
        "code = main(['evaluate', 'source=a.mp4', 'tokenizer=x', 'output=out'])\n"
        "print(code, {'torch', 'ray', 'av'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "tokenizer: no such key; did you mean tokenizers?" in done.stderr
    assert done.stdout == "2 set()\n"

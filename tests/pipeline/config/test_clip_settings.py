"""Settings of clips: shapes, windows, what each tokenizer gets of them, and whole videos."""

from pathlib import Path

from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config
from tests.pipeline.config.jobs import GOOD, faults

BUCKETS = (
    "clip: {buckets: [{frames: 17, height: 128, width: 128}, {frames: 9, height: 96, width: 160}]"
)


def test_buckets(good: str) -> None:
    assert load_config(good).clip.identity() == {
        **{"frames": 17, "height": 128, "width": 128},
        **{"fps": 8.0, "short": "drop", "resize": "uint8"},
    }
    Path(good).write_text(GOOD.replace("clip: {frames: 17, height: 128, width: 128", BUCKETS))
    config = load_config(good)
    assert config.clip.identity() == {
        "buckets": [
            {"frames": 17, "height": 128, "width": 128},
            {"frames": 9, "height": 96, "width": 160},
        ],
        **{"fps": 8.0, "short": "drop", "resize": "uint8"},
    }
    assert JobConfig.model_validate(config.public()) == config
    assert faults(good, "clip.frames=17", "clip.width=64") == [
        f"command line: clip.{name} = {value}: clip.buckets sets it for each shape; leave out"
        " one of the two"
        for name, value in (("frames", 17), ("width", 64))
    ]
    assert faults(good, "clip.buckets.1={frames: 17, height: 128, width: 128}") == [
        "command line: clip.buckets.1: is the same as clip.buckets.0; leave out one of them"
    ]
    # Every bucket has to suit every model.
    assert [line.partition(";")[0] for line in faults(good, "clip.buckets.1.frames=16")] == [
        f"command line: clip.buckets.1.frames = 16: {model} takes 1 + 4k frames"
        for model in ("vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny")
    ]
    assert faults(good, "clip.buckets.0.hight=16")[0] == (
        "command line: clip.buckets.0.hight: no such key; did you mean height?"
    )
    assert faults(good, "clip.buckets=[]") == [
        f"job.yaml: clip.{name}: is required; give it, or give clip.buckets"
        for name in ("frames", "height", "width")
    ]


def test_windows(good: str) -> None:
    plain = load_config(good).clip.identity()
    defaults = ["clip.stride_s=null", "clip.offset_s=0", "clip.choose=even", "clip.fps=8"]
    assert load_config(good, defaults).clip.identity() == plain
    settings = ["clip.stride_s=2", "clip.max_per_sample=3", "clip.choose=hash", "clip.offset_s=1"]
    config = load_config(good, [*settings, "clip.fps=[8, null]"])
    windows = {"stride_s": 2.0, "max_per_sample": 3, "choose": "hash", "offset_s": 1.0}
    assert config.clip.identity() == plain | windows | {"fps": [8.0, None]}
    assert JobConfig.model_validate(config.public()) == config
    assert faults(good, "clip.fps=[8, 8.0, null, null]") == [
        "command line: clip.fps = 8.0, null: occurs twice; leave out one of them"
    ]
    [line] = faults(good, "clip.max_per_sample=2000")
    assert line.endswith(
        "the decoder holds up to 1593 MiB of clips, and more than half of decode.memory_mb = 2048;"
        " set decode.memory_mb to 3186 or more, or choose fewer clips"
    )
    one_shape, unlimited = faults(good, "clip.every_bucket=true", "clip.choose=hash")
    assert one_shape == (
        "command line: clip.every_bucket = true: needs several shapes in clip.buckets; give them,"
        " or leave it out"
    )
    assert unlimited == (
        "command line: clip.choose = hash: chooses among the clips of a sample only with"
        " clip.max_per_sample; give that too, or leave this out"
    )
    whole = faults(good, "clip.whole=true", "clip.frames=null", "clip.fps=[8]", *settings[:2])
    assert [line for line in whole if "makes one clip" in line] == [
        f"command line: clip.{name}: clip.whole makes one clip of a sample; {fix}"
        for name, fix in (
            ("fps = [8.0]", "give one rate"),
            ("stride_s = 2.0", "leave out one of the two"),
            ("max_per_sample = 3", "leave out one of the two"),
        )
    ]


def test_sizes_and_rates(good: str) -> None:
    shape = ["clip.height=144", "clip.width=192", "clip.frames=25"]
    config = load_config(good, [*shape, "tokenizers.0.scale=1/3", "tokenizers.1.every=2"])
    assert [(spec.divisor, spec.every) for spec in config.tokenizers] == [(3, 1), (1, 2)]
    assert JobConfig.model_validate(config.public()) == config
    kl = "vidtok_kl_causal_488_8chn_tiny"
    [line] = faults(good, "clip.height=200", "tokenizers.1.scale=1/2")
    rule = f"{kl} with scale = 1/2 takes a multiple of 16 pixels; use 192 or 208"
    assert line == f"command line: clip.height = 200: {rule}"
    [line] = faults(good, "clip.frames=21", "tokenizers.1.every=2")
    rule = f"{kl} takes 1 + 4k frames, and every = 2 leaves 11; use 17 or 25"
    assert line == f"command line: clip.frames = 21: {rule}"


def test_whole_videos(good: str) -> None:
    model = "vidtok_kl_causal_488_16chn_v1_1"
    named = {"name": "kl", "model": model, "weights": "random"}
    ours = ["clip.frames=null", "clip.whole=true", f"tokenizers.1={named}"]
    only = GOOD.replace("  - {name: fsq, model: vidtok_fsq_causal_488_262144_tiny}\n", "")
    assert faults(good, *ours)[0] == (
        "command line: clip.whole = true: vidtok_fsq_causal_488_262144_tiny cannot encode a video"
        " chunk by chunk; v1.1 models of VidTok can; choose such a model, or set clip.frames"
    )
    Path(good).write_text(only)
    ours[2] = f"tokenizers.0={named}"
    config = load_config(good, ours)
    identity = {"whole": True, "chunk_frames": 64, "height": 128, "width": 128}
    assert config.clip.identity() == identity | {"fps": 8.0, "resize": "uint8"}
    assert JobConfig.model_validate(config.public()) == config
    assert not config.clip.takes_images
    assert faults(good, *ours, "clip.frames=17")[0] == (
        "command line: clip.frames = 17: clip.whole takes all frames; leave out one of the two"
    )
    assert faults(good, *ours, "clip.chunk_frames=30")[0] == (
        f"command line: clip.chunk_frames = 30: {model} takes a multiple of 4; use 28 or 32"
    )
    assert faults(good, *ours, "tokenize.decode_back_one_in=9")[0] == (
        "command line: tokenize.decode_back_one_in = 9: clips that are whole videos cannot be"
        " decoded back; leave it out"
    )
    fsq = named | {"model": "vidtok_fsq_causal_488_32768_v1_1", "hold": {"max_loss_db": 0.2}}
    assert faults(good, *ours[:2], f"tokenizers.0={fsq}")[0] == (
        "command line: tokenizers.0.hold: it decodes clips back, which clips that are whole videos"
        " cannot be; leave it out, or set clip.frames"
    )
    assert faults(good, *ours, "clip.height=100")[0].startswith("command line: clip.height = 100: ")
    Path(good).write_text(only.replace("clip: {frames: 17, height: 128, width: 128", BUCKETS))
    assert faults(good, *ours[1:])[0] == (
        "job.yaml: clip.buckets.0.frames = 17: clip.whole takes all frames; leave out one of the"
        " two"
    )
    assert faults(good, *ours[1:], "clip.whole=false", "clip.buckets.1.frames=null")[-1] == (
        "command line: clip.buckets.1.frames: is required; give it a value"
    )

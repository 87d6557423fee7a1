"""A wrong configuration is refused with lines that name the field, the rule and the fix."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config
from tests.pipeline.config.jobs import GOOD, faults


def test_defaults_and_overrides(good: str) -> None:
    config = load_config(
        good,
        [
            "tokenizers.1.precision=bf16",
            "output.uri=s3://b/x",
            "clip.frames=13",
            "clip.fps=6",
        ],
    )
    assert config.source.uri == ["videos/*.mp4"]
    assert (config.tokenizers[0].precision, config.tokenizers[1].precision) == ("float32", "bf16")
    assert config.output.uri == "s3://b/x"
    assert config.clip.frames == 13
    assert config.clip.fps == 6.0
    assert config.row_clips == 8


def test_an_override_may_open_a_section_that_the_file_leaves_out(good: str) -> None:
    config = load_config(good, ["decode.actors=3", "source.storage_options.anon=true"])
    assert config.decode.actors == 3
    assert config.source.storage_options == {"anon": True}


def test_a_pattern_needs_no_quotes_on_the_command_line(good: str) -> None:
    assert load_config(good, ["source.uri=*.mp4"]).source.uri == ["*.mp4"]
    assert load_config(good, ["source.uri=[a.tar, b.tar]"]).source.uri == ["a.tar", "b.tar"]


def test_interpolation(good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_ROOT", "/data")
    assert load_config(good, ["output.uri=${oc.env:DATASET_ROOT}/x"]).output.uri == "/data/x"
    assert faults(good, "output.uri=${clip.nothing}")[0].startswith("command line: output.uri: ")
    assert faults(good, "output.uri=${clip")[0].startswith("command line: output.uri: ")


def test_all_faults_come_at_once_each_from_where_it_was_typed(good: str) -> None:
    Path(good).write_text(GOOD.replace("fps: 8", "fsp: 8").replace("batch: 4", 'batch: "4"'))
    assert faults(good, "decode.timeout_s=-1", "outputt.uri=x", "tokenizers.0.precision=fp8") == [
        "job.yaml: clip.fsp: no such key; did you mean fps?",
        "command line: tokenizers.0.precision = fp8: must be 'float32', 'bf16' or 'fp16'",
        "job.yaml: tokenizers.1.batch = '4': should be a valid integer",
        "command line: decode.timeout_s = -1: should be greater than 0",
        "command line: outputt: no such key; did you mean output?",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "clip.frames=16",
            (
                "command line: clip.frames = 16: vidtok_fsq_causal_488_262144_tiny takes"
                " 1 + 4k frames; use 13 or 17"
            ),
        ),
        (
            "clip.height=100",
            (
                "command line: clip.height = 100: vidtok_fsq_causal_488_262144_tiny takes a"
                " multiple of 8 pixels; use 96 or 104"
            ),
        ),
        (
            "tokenizers.0.model=vidtok_fsq_causal_488_262144_tin",
            (
                "command line: tokenizers.0.model = vidtok_fsq_causal_488_262144_tin: no model"
                " has this name; did you mean vidtok_fsq_causal_488_262144_tiny"
            ),
        ),
        (
            "tokenizers.0.name=caption",
            "command line: tokenizers.0.name = caption: every row already has a column caption",
        ),
        (
            "tokenizers.1.name=fsq",
            "command line: tokenizers.1.name = fsq: tokenizers.0.name already has a column fsq",
        ),
        (
            "tokenizers.1.name=fsq_shape",
            "command line: tokenizers.1.name = fsq_shape: tokenizers.0.name already",
        ),
        ("tokenizers.1.name=KL", "command line: tokenizers.1.name = KL: must match ^[a-z]"),
        (
            "tokenizers.0.logvar=true",
            "command line: tokenizers.0.logvar = True: vidtok_fsq_causal_488_262144_tiny has no",
        ),
        (
            "tokenizers.0.dtype=float16",
            "command line: tokenizers.0.dtype = float16: the codebook of vidtok_fsq_causal",
        ),
        (
            "tokenizers.1.bits=7",
            "command line: tokenizers.1.bits = 7: only dtype = uint8 has bits; leave it out",
        ),
        ("tokenizers.1.bits=9", "command line: tokenizers.1.bits = 9: should be less than or eq"),
        (
            (
                "tokenizers.1={name: kl, model: vidtok_kl_causal_488_8chn_tiny, dtype: uint8,"
                " logvar: true}"
            ),
            "command line: tokenizers.1.logvar = True: dtype = uint8 stores no log-variance; leave",
        ),
        (
            "tokenizers.1.hold={max_loss_db: 0.2}",
            "command line: tokenizers.1.hold: vidtok_kl_causal_488_8chn_tiny is not FSQ, so",
        ),
        (
            "tokenizers.0.hold={max_loss_db: -0.2}",
            "command line: tokenizers.0.hold.max_loss_db = -0.2: should be greater than or equal",
        ),
        (
            "tokenizers.1.channels={max_loss_db: 0.2}",
            "command line: tokenizers.1.channels: vidtok_kl_causal_488_8chn_tiny is not FSQ, so",
        ),
        (
            (
                "tokenizers=[{name: fsq, model: vidtok_fsq_causal_488_262144_tiny, hold:"
                " {max_loss_db: 1}}, {name: fsq_repeats, model: vidtok_kl_causal_488_8chn_tiny}]"
            ),
            "command line: tokenizers.1.name = fsq_repeats: tokenizers.0.name already has a column",
        ),
        ("tokenizers.0.hold={}", "command line: tokenizers.0.hold.max_loss_db: is required"),
        (
            "tokenizers.0.weights=/nowhere.safetensors",
            "command line: tokenizers.0.weights = /nowhere.safetensors: no such file; correct the",
        ),
        (
            "tokenizers.0.weights=s3://b/w.ckpt",
            "command line: tokenizers.0.weights = s3://b/w.ckpt: must be a path that every node",
        ),
        (
            "tokenize.decode_back_one_in=0",
            "command line: tokenize.decode_back_one_in = 0: should be greater than 0",
        ),
        (
            "slice=3/3",
            "command line: slice = 3/3: slices are numbered from 0, so the last of 3 is 2",
        ),
        (
            "slice=0/0",
            "command line: slice = 0/0: has no parts; give their number after the slash",
        ),
        (
            "tokenizers.1.scale=0.5",
            "command line: tokenizers.1.scale = 0.5: must be '1/2', '1/3' or '1/4'",
        ),
        (
            "tokenizers.1.scale=1/5",
            "command line: tokenizers.1.scale = 1/5: must be '1/2', '1/3' or '1/4'",
        ),
        ("tokenizers.1.every=0", "command line: tokenizers.1.every = 0: should be greater than 0"),
        ("clip.frames=null", "command line: clip.frames: is required; give it, or give clip"),
        ("clip.frames=true", "command line: clip.frames = True: should be a valid integer"),
        ("source.uri=[]", "command line: source.uri = []: should have at least 1 item"),
        (
            "clip.stride_s=0.1",
            "command line: clip.stride_s = 0.1: is shorter than a frame at clip.fps",
        ),
        ("clip.fps=[]", "command line: clip.fps = []: list should have at least 1 item"),
        ("clip.fps=[8, -1]", "command line: clip.fps.1 = -1: should be greater than 0"),
        ("clip.fps=fast", "command line: clip.fps = 'fast': should be a valid number"),
        ("clip.short=cut", "command line: clip.short = cut: must be 'drop' or 'pad'"),
        ("memory_mb=5", "command line: memory_mb: no such key; did you mean decode.memory_mb?"),
        ("commit=3", "command line: commit = 3: must be a section of keys; known here: row_group"),
        ("clip.frames.x=3", "command line: clip.frames = {'x': 3}: should be a valid integer"),
        ("tokenizers.2.name=x", "command line: tokenizers.2.name: no such item (list index out of"),
        ("tokenizers.x.name=x", "command line: tokenizers.x.name: no such item (Index 'x'"),
        ("frames", "command line: frames: an override must have the form key=value"),
    ],
)
def test_a_wrong_value_is_one_line(good: str, override: str, line: str) -> None:
    got = faults(good, override)
    assert got[0].startswith(line)


def test_rows_of_lists_have_no_sidecars(good: str) -> None:
    """Their captions would be missing in silence."""
    given = ["source.caption=text", "source.beside=[{find: a, replace: b}]"]
    rule = "rows of a list have no sidecars"
    assert faults(good, "source.uri=[a.parquet, b.csv]", *given) == [
        f"command line: source.caption = text: {rule}; set source.lists.caption instead",
        f"command line: source.beside: {rule}; leave it out",
    ]
    assert load_config(good, ["source.uri=[a.parquet, b/*.mp4]", *given]).source.caption == "text"


def test_a_released_model_needs_weights(good: str) -> None:
    released = "tokenizers.0.model=vidtok_fsq_causal_488_32768"
    [line] = faults(good, released)
    assert line.startswith(
        "job.yaml: tokenizers.0.weights: the package has no weights of vidtok_fsq_causal_488_32768,"
        " only of vidtok_fsq_causal_488_262144_tiny, vidtok_kl_causal_488_8chn_tiny,"
        " vidtok_fsq_causal_488_262144_tiny_v1_1, vidtok_kl_causal_488_8chn_tiny_v1_1; set hub,"
    )
    assert "python -m vidtok convert vidtok_fsq_causal_488_32768 FILE.safetensors" in line
    assert "or random, " in line
    for weights in ("hub", "random"):
        config = load_config(good, [released, f"tokenizers.0.weights={weights}"])
        assert config.tokenizers[0].weights == weights


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("clip: {}\n]", "job.yaml: line 2: not YAML: "),
        ("clip: {}\nclip: {}", "job.yaml: line 2: not YAML: found duplicate key clip"),
        ("17", "job.yaml: cannot be read: Invalid loaded object type: int"),
        ("[17]", "job.yaml: must hold sections (source, clip, tokenizers, output"),
        ("clip: ${x", "job.yaml: no viable alternative at input '${x'"),
        ("clip: {frames: 17, height: 8, width: 8}", "job.yaml: source: is required"),
    ],
)
def test_a_wrong_file_is_one_line(good: str, text: str, line: str) -> None:
    Path(good).write_text(text)
    assert faults(good)[0].startswith(line)


def test_a_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    assert faults(path) == ["job.yaml: cannot be read: No such file or directory"]


def test_a_date_is_a_string_and_an_exponent_a_number(good: str) -> None:
    Path(good).write_text(
        GOOD.replace('"videos/*.mp4"', "2026-11-24").replace("fps: 8", "fps: 1e1")
    )
    config = load_config(good)
    assert (config.source.uri, config.clip.fps) == (["2026-11-24"], 10.0)


def test_a_word_that_is_a_boolean_in_yaml_is_refused_and_not_converted(good: str) -> None:
    Path(good).write_text(GOOD.replace("out}", "no}"))
    assert faults(good) == ["job.yaml: output.uri = False: should be a valid string"]


def test_credentials_do_not_leave_the_configuration(good: str) -> None:
    config = load_config(
        good,
        ["output.storage_options={key: me, secret: hush}", "source.storage_options.token=hush"],
    )
    assert config.output.storage_options["secret"] == "hush"
    assert "hush" not in str(config.public())
    assert config.public()["output"]["storage_options"] == {"key": "…", "secret": "…"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://me:hush@bucket/{a,b}.tar", "s3://…@bucket/{a,b}.tar"),
        ("https://h/x.tar?X-Amz-Signature=hush&b=1", "https://h/x.tar?…&b=1"),
        ("https://h/x.tar?b=1&sig=hush", "https://h/x.tar?b=1&…"),
        ("simplecache::https://me:hush@h/x.tar", "simplecache::https://…@h/x.tar"),
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(
    good: str, uri: str, shown: str
) -> None:
    for field in ("source.uri", "output.uri"):
        [line] = faults(good, f"{field}={json.dumps(uri)}")
        name = "source.uri.0" if field == "source.uri" else field
        assert line.startswith(f"command line: {name} = {shown}: contains credentials")
        assert "hush" not in line
    for fine in ("s3://bucket/a@b:c.tar", "sftp://me@h/x.tar", "https://h/x.tar?version=signature"):
        load_config(good, [f"source.uri={json.dumps(fine)}"])


def test_what_a_run_writes_down_can_be_run_again(good: str) -> None:
    config = load_config(good, ["clip.resize=float32", "tokenize.gpus_per_actor=0.5"])
    assert JobConfig.model_validate(config.public()) == config


def test_a_typing_error_is_answered_without_torch_and_ray(good: str) -> None:
    program = (
        "import sys\n"
        "from pipeline.job.config_checks import load_config\n"
        "from pipeline.errors import ConfigError\n"
        "try: load_config(sys.argv[1], ['clip.framse=17'])\n"
        "except ConfigError as error: print(error)\n"
        "print({'torch', 'ray', 'av'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, good], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "command line: clip.framse: no such key; did you mean frames?",
        "set()",
    ]

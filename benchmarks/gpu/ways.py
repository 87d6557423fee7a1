"""The same networks in several ways: this package, the public reference, and diffusers' class."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch
from torch import Tensor

import vidtok
from benchmarks.operations import norms_by
from tests.vidtok.deterministic import fill_weights, synthetic_video
from vidtok import norm
from vidtok.diffusers_folder import class_config
from vidtok.presets import named_config

OURS, REFERENCE, DIFFUSERS = "ours", "reference", "diffusers"
SEARCHED = "ours, cudnn.benchmark"
PLAIN = "ours, norms by torch"
COMPILED = "ours, torch.compile"

PRECISIONS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "tf32": torch.float32,
}
"""Dtype by name. `tf32` is float32 whose products are rounded to TensorFloat-32."""

UNUSED = ("lightning.pytorch.utilities.rank_zero", "decord", "torchvision", "imageio", "cv2")
"""Modules that the reference imports and its networks do not use."""


@dataclass(frozen=True)
class Setup:
    """What a run measures, and on what."""

    device: torch.device
    size: int
    """Height and width of the clips in pixels."""
    quick: bool
    """Whether networks are narrow and few calls are timed: to see that all parts run."""
    reference: Path | None
    """Checkout of the public reference."""
    folder: Path
    """Folder of the traces."""
    only_ours: bool = False
    """Whether other implementations are left out."""
    frames: int = 17

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Way:
    """One implementation of a network, on the device."""

    encode: Callable[[Tensor], Tensor]
    """Video `[B, 3, T, H, W]` to code indices."""
    decode: Callable[[Tensor], Tensor]
    """Codes `[B, Z, t, h, w]` to a video."""


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Allow TensorFloat-32 for `tf32` alone."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@cache
def model_on_cpu(name: str, quick: bool) -> vidtok.Tokenizer:
    """Return a network in float32 with drawn weights."""
    config = named_config(name)
    if quick:
        config = replace(config, ch=8, num_res_blocks=1)
    model = vidtok.build(config, seed=0)
    fill_weights(model.state_dict())
    return model


@cache
def clips_on_cpu(frames: int, size: int) -> Tensor:
    """Return four clips whose channels are last in memory, as the pipeline gives them."""
    return synthetic_video(4, frames, size, size).contiguous(memory_format=torch.channels_last_3d)


def clips(setup: Setup, batch: int) -> Tensor:
    """Return clips on the device; those beyond four are copies of the first four."""
    four = clips_on_cpu(setup.frames, setup.size).to(setup.device)
    several = four.repeat(-(-batch // 4), 1, 1, 1, 1)[:batch]
    return several.contiguous(memory_format=torch.channels_last_3d)


def is_possible(way: str, name: str, setup: Setup) -> bool:
    """Return whether an implementation has this network and is here."""
    if way == PLAIN:
        return has_fused_norms(setup)
    if way not in (REFERENCE, DIFFUSERS):
        return way == OURS or not setup.quick
    if setup.only_ours:
        return False
    if way == REFERENCE:
        return setup.reference is not None
    try:
        import diffusers
    except ImportError:
        return False
    return name.endswith("_v1_1") and hasattr(diffusers, "AutoencoderVidTok")


def open_way(way: str, name: str, precision: str, setup: Setup) -> Way:
    """Return an implementation on the device."""
    model = model_on_cpu(name, setup.quick)
    if way == REFERENCE:
        return _reference(model, PRECISIONS[precision], setup)
    if way == DIFFUSERS:
        return _diffusers(model, PRECISIONS[precision], setup)
    ours = deepcopy(model).to(setup.device, PRECISIONS[precision])
    if way == COMPILED:
        for half in (ours.encoder, ours.decoder):
            half.compile(fullgraph=True, dynamic=False)
    context = {SEARCHED: _searching, PLAIN: partial(norms_by, None)}.get(way, nullcontext)

    def encode(video: Tensor) -> Tensor:
        with context():
            indices = ours.encode(video).indices
        assert indices is not None
        return indices

    def decode(z: Tensor) -> Tensor:
        with context():
            return ours.decode(z, setup.frames)

    return Way(encode, decode)


def has_fused_norms(setup: Setup) -> bool:
    """Return whether norms of this device run in kernels of this package."""
    return norm.kernels(torch.zeros(1, 128, device=setup.device)) is not None


@contextmanager
def _searching() -> Iterator[None]:
    """Let cuDNN time its algorithms for each new shape."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _diffusers(model: vidtok.Tokenizer, dtype: torch.dtype, setup: Setup) -> Way:
    import diffusers

    vae = diffusers.AutoencoderVidTok.from_config(class_config(model.config)).eval()
    vae.load_state_dict(model.state_dict())
    vae.to(setup.device, dtype)
    copies = model.config.temporal_factor - 1

    @torch.no_grad()
    def encode(video: Tensor) -> Tensor:
        first = video[:, :, :1].expand(-1, -1, copies, -1, -1)
        return vae.encode(torch.cat([first, video], 2).to(dtype))[1]

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        return vae.decode(z.to(dtype))

    return Way(encode, decode)


def _reference(model: vidtok.Tokenizer, dtype: torch.dtype, setup: Setup) -> Way:
    """Return the reference with float32 weights, under autocast in the half precisions."""
    config = model.config
    assert setup.reference is not None
    version = "_v1_1" if config.network == "causal_v1_1" else ""
    network = _reference_module(f"modules.model_3dcausal{version}", setup.reference)
    regularizers = _reference_module("modules.regularizers", setup.reference)
    settings = {
        "ch": config.ch,
        "ch_mult": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "z_channels": config.z_channels,
        "time_downsample_factor": config.temporal_factor,
        "in_channels": 3,
        "out_ch": 3,
        "double_z": False,
        "dropout": 0.0,
        "use_checkpoint": False,
        "init_pad_mode": "replicate",
        "norm_type": "layernorm",
        "interpolation_mode": "trilinear",
        "fix_encoder": False,
        "fix_decoder": False,
    }
    encoder = network.EncoderCausal3DPadding(**settings).eval()
    decoder = network.DecoderCausal3DPadding(**settings).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    encoder.to(setup.device)
    decoder.to(setup.device)
    fsq = regularizers.FSQRegularizer(levels=list(config.fsq_levels), entropy_loss_weight=0.0)
    fsq.to(setup.device)

    def autocast() -> AbstractContextManager[object]:
        half = dtype != torch.float32
        return torch.autocast(setup.device.type, dtype) if half else nullcontext()

    @torch.no_grad()
    def encode(video: Tensor) -> Tensor:
        with autocast():
            z = encoder(video)
        return fsq.codes_to_indices(fsq.quantize(z.float().movedim(1, -1)))

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        with autocast():
            return decoder(z)[:, :, -setup.frames :]

    return Way(encode, decode)


def _reference_module(path: str, checkout: Path) -> ModuleType:
    """Import a module of the reference, whose package has our package's name, under another."""
    package = sys.modules.setdefault("vidtok_reference", ModuleType("vidtok_reference"))
    package.__path__ = [str(checkout / "vidtok")]
    parents = {".".join(name.split(".")[:end]) for name in UNUSED for end in (1, 2, 3, 4)}
    missing = parents - sys.modules.keys()
    sys.modules.update({name: MagicMock() for name in missing})
    try:
        return importlib.import_module(f"vidtok_reference.{path}")
    finally:  # diffusers must not find them
        for name in missing:
            del sys.modules[name]

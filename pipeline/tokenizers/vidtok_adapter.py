"""VidTok as a `ChunkedTokenizer`: the models of this package, by their plain names."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

import vidtok
from pipeline.config.job import HUB, RANDOM
from pipeline.config.loading import Fault
from pipeline.errors import ConfigError, one_line
from pipeline.tokenizers.protocol import Encoded, EncodeStream, Facts, Lengths
from vidtok.presets import PRESETS

UNTRAINED_SEED: Final = 0
"""Seed of the initialisation with `weights: random`."""


COMPILER: Final = "inductor"
"""Name of torch's compiler for `compile: true`, as the identity of a dataset has it."""

_MAX_SHAPES: Final = 64
"""Maximum number of shapes of clips that an encoder is compiled for."""


def vidtok_faults(model: str, weights: str | None, where: str = "") -> Iterator[Fault]:
    """Yield the errors in the name of a VidTok model and in its weights.

    Args:
        model: a name, which should be one of `vidtok.list_models()`.
        weights: path of a checkpoint, `hub`, `random`, or None for the weights in the package.
        where: text before the fields `model` and `weights`, such as `tokenizers.0.`.
    """
    if model not in PRESETS:
        close = difflib.get_close_matches(model, PRESETS, n=2, cutoff=0.3)
        fix = f"did you mean {' or '.join(close)}?" if close else ""
        yield Fault(f"{where}model", model, "no model has this name", fix)
    elif weights is None:
        if vidtok.bundled_weights(model) is None:
            bundled = " and ".join(name for name in PRESETS if vidtok.bundled_weights(name))
            yield Fault(
                f"{where}weights",
                rule=f"the package has no weights of {model}, only of {bundled}",
                fix="set hub, which downloads the released checkpoint; or the path of a file, as"
                f" `python -m vidtok convert {model} FILE.safetensors` writes it; or random, for"
                " tokens without a meaning",
            )
    elif weights in (HUB, RANDOM):
        pass
    elif "://" in weights:
        rule = "must be a path that every node can read"
        yield Fault(f"{where}weights", weights, rule, "copy the file to such a path first")
    elif not Path(weights).exists():
        yield Fault(f"{where}weights", weights, "no such file")


def vidtok_facts(config: vidtok.TokenizerConfig) -> Facts:
    """Return the facts of a VidTok model."""
    f, rest = config.temporal_factor, config.time_rule.length_remainder
    lengths = Lengths()
    if rest is not None:
        lengths = Lengths(multiple=f, remainders=(rest % f,), least=rest or f)
    return Facts(
        kind="indices" if config.regularizer == "fsq" else "latents",
        channels=config.z_channels,
        codebook_size=config.codebook_size,
        levels=config.fsq_levels,
        temporal_factor=f,
        spatial_factor=config.spatial_factor,
        lengths=lengths,
        chunkable=config.time_rule.chunkable,
        logvar=config.regularizer == "kl",
        causal=config.causal,
    )


def open_vidtok(model: str, weights: str | None) -> "VidTok":
    """Return a VidTok model; its name and weights have no `vidtok_faults`."""
    if weights == RANDOM:
        return VidTok(vidtok.build(model, seed=UNTRAINED_SEED))
    source = model if weights is None or weights == HUB else weights
    return VidTok(vidtok.load(source, config=model))


class VidTok:
    """A `ChunkedTokenizer`."""

    def __init__(self, model: vidtok.Tokenizer) -> None:
        self._model = model
        self.facts = vidtok_facts(model.config)

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration of the network, without its name."""
        return {k: v for k, v in self._model.config.to_dict().items() if k != "name"}

    def module(self) -> nn.Module:
        """Return the network."""
        return self._model

    def compile(self) -> None:
        """Have the encoder compiled as one graph at its first call with each shape."""
        self._model.encoder.compile(
            fullgraph=True, dynamic=False, backend=COMPILER, recompile_limit=_MAX_SHAPES
        )

    def encode(
        self, video: Tensor, chunk_frames: int | None = None, as_reference: bool = False
    ) -> Encoded:
        """Encode clips; see `vidtok.Tokenizer.encode`.

        Raises:
            ConfigError: the encoder could not be compiled on this machine.
        """
        try:
            return self._model.encode(video, chunk_frames, as_reference)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise ConfigError(
                f"compile = true: {one_line(error, max_chars=200)}; leave it out, or install Triton"
                " and a C++ compiler on every node"
            ) from error

    def decode(
        self,
        cells: Tensor,
        num_frames: int,
        chunk_frames: int | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Decode indices or latents; see `vidtok.Tokenizer.decode`."""
        model, indices = self._model, self.facts.kind == "indices"
        decode = model.decode_indices if indices else model.decode
        return decode(cells, num_frames, chunk_frames, as_reference)

    def encode_stream(self, num_frames: int, chunk_frames: int) -> EncodeStream:
        """Begin a clip whose frames arrive in pieces."""
        return self._model.encode_stream(num_frames, chunk_frames)

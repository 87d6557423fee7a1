"""A video tokenizer: encode clips to code indices or latents, decode them back.

    video [B, 3, T, H, W] ─► encoder ─► FSQ or KL ─► latent [B, Z, t, h, w] ─► decoder ─► video

By default a clip that the network would silently cut, shift or floor is refused, and a clip that
comes in chunks gives what the whole clip gives, to float rounding. `as_reference=True` repeats what
the public reference does instead, accidents included, for those who compare.
Source: VidTok, arXiv 2412.13061.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidtok import fsq, kl, reference
from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.presets import named_config
from vidtok.temporal import Stream

_VALUE_SLACK = 0.01
"""By how much rounding (bfloat16 included) may carry a value out of [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `Tokenizer.encode` returns; all floats are float32, whatever the network computes in."""

    latent: Tensor
    """`[B, Z, t, h, w]`: FSQ codes, or the KL mean."""
    indices: Tensor | None = None
    """FSQ: int32 `[B, t, h, w]` in [0, codebook_size)."""
    mean: Tensor | None = None
    """KL: `[B, Z, t, h, w]`."""
    logvar: Tensor | None = None
    """KL: log-variance, same shape, in [-30, 20]."""

    def sample(self, seed: int) -> Tensor:
        """Draw a latent from the KL posterior; the same seed gives the same draw on any device.

        Raises:
            ValueError: the latent is FSQ's, which has no posterior.
        """
        if self.mean is None or self.logvar is None:
            raise ValueError("FSQ codes have no posterior to sample from; use latent")
        return kl.sample(self.mean, self.logvar, torch.Generator().manual_seed(seed))


class Tokenizer(nn.Module):
    """One VidTok autoencoder.

    `encode` and `decode` compute without gradients; `encoder` and `decoder` are ordinary modules on
    channels-last tensors for those who train them.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            elif parameter.dim() == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(
        self, video: Tensor, chunk_frames: int | None = None, as_reference: bool = False
    ) -> Encoded:
        """Encode clips.

        Args:
            video: `[B, 3, T, H, W]` float in [-1, 1]; T, H, W as the configuration allows.
            chunk_frames: work through the clip this many frames at a time, so that memory does not
                grow with T (v1.1 only; a multiple of the temporal factor).
            as_reference: take any length and size as the reference does (T lengthened by its rule,
                H and W floored), and tile as it does when `chunk_frames` is set.

        Returns:
            The latents, float32, on the model's device.

        Raises:
            ValueError: the clip is not what the network takes; the text names the nearest it takes.
        """
        self._check_video(video)
        if not as_reference:
            self.config.check_frames(video.shape[2])
            self.config.check_size(video.shape[3], video.shape[4])
        self._check_chunk(chunk_frames)
        x = video.to(self.device, self.dtype).permute(0, 2, 3, 4, 1).contiguous()
        if as_reference and chunk_frames:
            chunks = reference.encode_tiles(self.encoder, self.config, x, chunk_frames)
        else:
            chunks = self._chunks_of(x.shape[1], chunk_frames).take(x)
        return self._regularize(torch.cat(list(chunks), 1).float())

    def encode_stream(self, num_frames: int, chunk_frames: int) -> "EncodeStream":
        """Return an encoder of clips whose frames come piece by piece (v1.1 only).

        Args:
            num_frames: T of the whole clip: how its beginning is encoded depends on it.
            chunk_frames: as in `encode`, whose results on the whole clip this gives.

        Raises:
            ValueError: the network does not work in chunks, or not in these.
        """
        self.config.check_frames(num_frames)
        self._check_chunk(chunk_frames)
        return EncodeStream(self, self._chunks_of(num_frames, chunk_frames))

    def _chunks_of(self, num_frames: int, chunk_frames: int | None) -> "_Chunks":
        return _Chunks(self.encoder, self.config, num_frames, chunk_frames)

    def _regularize(self, h: Tensor) -> Encoded:
        """Split `[B, t, h, w, C]` float32 encoder output into what the regularizer makes of it."""
        if self.config.regularizer == "fsq":
            codes = fsq.quantize(h, self.config.fsq_levels)
            indices = fsq.codes_to_indices(codes, self.config.fsq_levels)
            return Encoded(_channels_first(codes), indices=indices)
        mean, logvar = (_channels_first(x) for x in kl.posterior(h))
        return Encoded(mean, mean=mean, logvar=logvar)

    @torch.no_grad()
    def decode(
        self,
        latent: Tensor,
        num_frames: int | None = None,
        chunk_frames: int | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Decode latents.

        Args:
            latent: `[B, Z, t, h, w]` float: FSQ codes, a KL mean or a KL sample.
            num_frames: T of the clip that was encoded. Only v1.1 needs it: there t latent frames
                stand for any of f lengths, and the last `num_frames` of the f·t frames that the
                network gives are the clip. None: all that the latent gives.
            chunk_frames: give this many frames at a time (v1.1 only).
            as_reference: tile as the reference does, with overlap, when `chunk_frames` is set.

        Returns:
            `[B, 3, T, H, W]` in the model's dtype, near [-1, 1], not clamped.

        Raises:
            ValueError: the latent or `num_frames` does not fit the network.
        """
        config, f = self.config, self.config.temporal_factor
        if latent.dim() != 5 or latent.shape[1] != config.z_channels:
            raise ValueError(
                f"latent of shape {tuple(latent.shape)}: {config.name} decodes "
                f"[B, {config.z_channels}, t, h, w]"
            )
        if not latent.is_floating_point():
            raise ValueError(
                f"latent of {latent.dtype}: must be float; for indices, decode_indices"
            )
        if num_frames is not None and not as_reference:
            t = config.latent_frames(num_frames)
            if t != latent.shape[2]:
                raise ValueError(
                    f"num_frames = {num_frames}: would be {t} latent frames, "
                    f"these are {latent.shape[2]}"
                )
        self._check_chunk(chunk_frames)
        z = latent.to(self.device, self.dtype).permute(0, 2, 3, 4, 1).contiguous()
        step = None if chunk_frames is None else chunk_frames // f
        if as_reference and step:
            y = torch.cat(list(reference.decode_tiles(self.decoder, config, z, step)), 1)
        else:
            y = torch.cat(list(self._decode_chunks(z, step)), 1)
        if config.network == "causal_v1_0":
            y = y[:, f - 1 :]
        if num_frames is not None:
            y = y[:, max(0, y.shape[1] - num_frames) :]
        return _channels_first(y)

    def _decode_chunks(self, z: Tensor, step: int | None) -> Iterator[Tensor]:
        stream, length = Stream(self.config.time_rule), z.shape[1]
        for start in range(0, length, step or length):
            end = min(length, start + (step or length))
            yield self.decoder(z[:, start:end], stream.chunk(first=start == 0, last=end == length))

    @torch.no_grad()
    def decode_indices(
        self,
        indices: Tensor,
        num_frames: int | None = None,
        chunk_frames: int | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Decode FSQ code indices `[B, t, h, w]`; the rest as `decode`, whose result it gives.

        Raises:
            ValueError: the model is not FSQ, or the indices are no integers of its codebook.
        """
        size = self.config.codebook_size
        if size is None:
            raise ValueError(f"{self.config.name} is a KL tokenizer and has no code indices")
        if indices.dim() != 4 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(
                f"indices of shape {tuple(indices.shape)} and {indices.dtype}: "
                "must be integers [B, t, h, w]"
            )
        indices = indices.to(torch.int64)
        low, high = (int(v) for v in torch.aminmax(indices)) if indices.numel() else (0, 0)
        if low < 0 or high >= size:
            raise ValueError(
                f"indices from {low} to {high}: {self.config.name} has 0 to {size - 1}"
            )
        latent = _channels_first(fsq.indices_to_codes(indices, self.config.fsq_levels))
        return self.decode(latent, num_frames, chunk_frames, as_reference)

    def _check_video(self, video: Tensor) -> None:
        if video.dim() != 5 or video.shape[1] != 3:
            raise ValueError(f"video of shape {tuple(video.shape)}: must be [B, 3, T, H, W]")
        if not video.is_floating_point():
            raise ValueError(f"video of {video.dtype}: must be float in [-1, 1]; use x / 127.5 - 1")
        if video.numel() == 0:
            raise ValueError(f"video of shape {tuple(video.shape)} is empty")
        low, high = (v.item() for v in torch.aminmax(video))
        if not (low >= -1 - _VALUE_SLACK and high <= 1 + _VALUE_SLACK):
            raise ValueError(
                f"video with values from {low:.4g} to {high:.4g}: must lie in [-1, 1]; "
                "for 8-bit frames use x / 127.5 - 1"
            )

    def _check_chunk(self, chunk_frames: int | None) -> None:
        if chunk_frames is None:
            return
        name, f = self.config.name, self.config.temporal_factor
        if not self.config.time_rule.chunkable:
            raise ValueError(
                f"chunk_frames = {chunk_frames}: only v1.1 networks work in chunks, {name} is none"
            )
        if chunk_frames < f or chunk_frames % f:
            near = max(f, chunk_frames // f * f)
            raise ValueError(
                f"chunk_frames = {chunk_frames}: {name} takes a multiple of {f}; use {near}"
            )


class EncodeStream:
    """Encodes one batch of clips as their frames come. Made by `Tokenizer.encode_stream`."""

    def __init__(self, tokenizer: Tokenizer, chunks: "_Chunks") -> None:
        self._tokenizer = tokenizer
        self._chunks = chunks

    @torch.no_grad()
    def push(self, video: Tensor) -> Encoded | None:
        """Take in frames; return what they complete: the next latent frames, if any.

        Args:
            video: `[B, 3, n, H, W]` float in [-1, 1], n of any length.

        Raises:
            ValueError: the frames are not what the network takes, or too many.
        """
        model = self._tokenizer
        model._check_video(video)
        model.config.check_size(video.shape[3], video.shape[4])
        x = video.to(model.device, model.dtype).permute(0, 2, 3, 4, 1).contiguous()
        latents = list(self._chunks.take(x))
        return model._regularize(torch.cat(latents, 1).float()) if latents else None


class _Chunks:
    """Cuts the frames of a clip into what the encoder is given at a time, and gives it."""

    def __init__(
        self, encoder: Encoder, config: TokenizerConfig, num_frames: int, chunk_frames: int | None
    ) -> None:
        f = config.temporal_factor
        # With the first frame as the fill, copies of it in front of a clip of 1 + kf frames are
        # all equal through all layers: the stream knows, and 16 % of the arithmetic is saved.
        compact = config.time_rule.fill == "first" and num_frames % f == 1 % f
        self._encoder = encoder
        self._config = config
        self._stream = Stream(config.time_rule, compact=compact)
        self._copies = 0 if compact else reference.copies_in_front(config, num_frames)
        self._left = self._copies + num_frames
        self._step = chunk_frames
        self._next = self._left if chunk_frames is None else chunk_frames + (1 if compact else 0)
        self._first = True
        self._held: list[Tensor] = []

    def take(self, x_BTHWC: Tensor) -> Iterator[Tensor]:
        """Yield the encoder's output of each chunk that is full, or the clip's last."""
        self._held.append(reference.repeat_first(x_BTHWC, self._copies))
        self._copies = 0
        while (held := sum(piece.shape[1] for piece in self._held)) and self._left:
            size = min(self._next, self._left)
            if held < size:
                return
            x = self._held[0] if len(self._held) == 1 else torch.cat(self._held, 1)
            x, rest = x[:, :size], x[:, size:]
            self._held = [rest] if rest.shape[1] else []
            self._left -= size
            yield self._encoder(x, self._stream.chunk(first=self._first, last=not self._left))
            self._first, self._next = False, self._step or size
        if self._held:
            raise ValueError("more frames than the clip was said to have")


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1).contiguous()


def build(name_or_config: str | TokenizerConfig, *, seed: int | None = None) -> Tokenizer:
    """Return an untrained tokenizer in eval mode.

    Args:
        name_or_config: a name of `list_models()`, or a configuration.
        seed: initialise from this seed, without touching the global generator.

    Raises:
        ValueError: the name is not known.
    """
    config = named_config(name_or_config) if isinstance(name_or_config, str) else name_or_config
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return Tokenizer(config).eval()

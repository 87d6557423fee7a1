"""A video tokenizer: encode clips to code indices or latents, decode them back.

    video [B, 3, T, H, W] ─► encoder ─► FSQ or KL ─► latent [B, Z, t, h, w] ─► decoder ─► video

By default a clip that the network would silently cut, shift or floor is refused. A clip in chunks
gives the same result as the whole clip, except for float rounding. `as_reference=True` repeats the
behaviour of the public reference, including its accidents, for comparisons.
Source: VidTok, arXiv 2412.13061.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidtok import fsq, half, kl, ops, reference, tiles
from vidtok.channels import ChannelOrder, require_range
from vidtok.chunks import Chunks
from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.presets import named_config
from vidtok.temporal import Stream
from vidtok.tiles import Tile

_VALUE_SLACK = 0.01
"""Distance that rounding, also of bfloat16, can move a value outside [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of `Tokenizer.encode`. All floats are float32, whatever the network computes in."""

    latent: Tensor
    """Latent `[B, Z, t, h, w]`: FSQ codes, or the KL mean."""
    indices: Tensor | None = None
    """Code indices of FSQ, int32 `[B, t, h, w]` in [0, codebook_size). None for KL."""
    mean: Tensor | None = None
    """Mean of the KL posterior, `[B, Z, t, h, w]`. None for FSQ."""
    logvar: Tensor | None = None
    """Log-variance of the KL posterior, of the same shape, in [-30, 20]. None for FSQ."""

    def sample(self, seed: int) -> Tensor:
        """Draw a latent from the KL posterior. A seed gives the same draw on every device.

        Raises:
            ValueError: the latent consists of FSQ codes, which have no posterior.
        """
        if self.mean is None or self.logvar is None:
            raise ValueError("FSQ codes have no posterior to sample from; use latent")
        return kl.sample(self.mean, self.logvar, torch.Generator().manual_seed(seed))


class Tokenizer(nn.Module):
    """One VidTok autoencoder.

    `encode` and `decode` compute without gradients. `encoder` and `decoder` are ordinary modules on
    channels-last tensors, for training.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.channels: ChannelOrder | None = None  # with `load`, from the file beside the weights
        for parameter in self.parameters():
            if parameter.dim() > 2:
                parameter.data = ops.channels_last(parameter.data)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters. The network computes in it, or as `vidtok.half` says on a CPU."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device that the network computes on."""
        return next(self.parameters()).device

    @property
    def _arithmetic(self) -> torch.dtype:
        return half.arithmetic(self.device, self.dtype)

    @torch.no_grad()
    def encode(
        self,
        video: Tensor,
        chunk_frames: int | None = None,
        as_reference: bool = False,
        tile: Tile = None,
        check_range: bool = True,
    ) -> Encoded:
        """Encode clips.

        Args:
            video: `[B, 3, T, H, W]`, on any device and of any strides; T, H, W as the configuration
                allows. Floats in [-1, 1], or uint8, which become x / 127.5 - 1 on the model's
                device.
            chunk_frames: number of frames to encode at a time, so that memory does not grow with T.
                Only v1.1 networks take it, and only multiples of the temporal factor.
            as_reference: accept any length and size as the reference does: it extends T by its rule
                and rounds H and W down. With `chunk_frames`, also cut chunks as it does.
            tile: size of tiles in pixels, a multiple of the spatial factor: a tile is at most as
                large as a square with this side, so memory hardly grows with H and W. `auto`: no
                tiles, or the largest that fit into the free memory. The result differs only by
                float rounding. Not with `as_reference`.
            check_range: whether to refuse floats outside [-1, 1]. On an accelerator this check
                waits for all queued work; uint8 needs none.

        Returns:
            The latents, float32, on the model's device.

        Raises:
            ValueError: the network does not take such clips; the text names the nearest valid size.
            NoRoomError: with `auto`, the memory has no room for any tile.
        """
        self._check_video(video, check_range)
        if not as_reference:
            self.config.check_frames(video.shape[2])
            self.config.check_size(video.shape[3], video.shape[4])
        self._check_chunk(chunk_frames)
        self._check_tile(tile, as_reference)
        parts = []
        for clips in tiles.batches(
            self.encoder, self.config, video, self._arithmetic, chunk_frames, tile
        ):
            x = self._network_input(clips, tile)
            if as_reference and chunk_frames:
                encoder = half.in_arithmetic(self.encoder)
                chunks = reference.encode_tiles(encoder, self.config, x, chunk_frames)
            else:
                chunks = self._chunks_of(x.shape[1], chunk_frames, tile).take(x)
            parts.append(torch.cat(list(chunks), 1))
        return self._regularize(torch.cat(parts).float())

    def encode_stream(
        self,
        num_frames: int,
        chunk_frames: int,
        tile: Tile = None,
        check_range: bool = True,
    ) -> "EncodeStream":
        """Return an encoder for clips whose frames arrive in pieces (v1.1 only).

        Args:
            num_frames: T of the whole clip; its first frames are encoded depending on it.
            chunk_frames: number of frames to encode at a time. The results equal those of `encode`
                with this number.
            tile: as in `encode`.
            check_range: as in `encode`.

        Raises:
            ValueError: the network does not work in chunks, or not in chunks of this length.
        """
        self.config.check_frames(num_frames)
        self._check_chunk(chunk_frames)
        self._check_tile(tile)
        chunks = self._chunks_of(num_frames, chunk_frames, tile)
        return EncodeStream(self, chunks, tile, check_range)

    def smaller_tile(self, size: tuple[int, int, int], tile: Tile, *, decoder: bool) -> int | None:
        """Return the tile to try if a clip ran out of memory; None if no tile needs less.

        Args:
            size: T, H and W of the clip; with `chunk_frames`, T of a chunk.
            tile: tile that was tried, as in `encode`.
            decoder: whether `decode` was tried, and not `encode`.

        Raises:
            ValueError: the tile is not one of `encode`.
            NoRoomError: as `encode`.
        """
        self._check_tile(tile)
        network = self.decoder if decoder else self.encoder
        return tiles.smaller(network, self.config, size, self._arithmetic, tile)

    def _network_input(self, video: Tensor, tile: Tile) -> Tensor:
        """Return clips as the networks take them: `[B, T, H, W, 3]` in their arithmetic."""
        x = video.to(self.device)
        if x.dtype == torch.uint8:
            x = x.float().div_(127.5).sub_(1)
        x = x.to(self._arithmetic).permute(0, 2, 3, 4, 1)
        return x.contiguous() if tile is None else x  # tiles are copies

    def _chunks_of(self, num_frames: int, chunk_frames: int | None, tile: Tile = None) -> Chunks:
        encoder = tiles.in_tiles(half.in_arithmetic(self.encoder), self.config, tile)
        return Chunks(encoder, self.config, num_frames, chunk_frames)

    def _regularize(self, h: Tensor) -> Encoded:
        """Return what the regularizer makes of float32 encoder output `[B, t, h, w, C]`."""
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
        tile: Tile = None,
    ) -> Tensor:
        """Decode latents.

        Args:
            latent: `[B, Z, t, h, w]` float: FSQ codes, a KL mean or a KL sample.
            num_frames: T of the clip that was encoded. Only v1.1 needs it, because f different
                lengths give t latent frames. The clip is the last `num_frames` of the f·t frames
                that the network produces. None returns all of them.
            chunk_frames: number of frames to decode at a time (v1.1 only).
            as_reference: with `chunk_frames`, tile as the reference does, with overlap.
            tile: as in `encode`.

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
                f"latent of {latent.dtype}: must be float; for indices, use decode_indices"
            )
        if latent.numel() == 0:
            raise ValueError(f"latent of shape {tuple(latent.shape)} is empty")
        if num_frames is not None and not as_reference:
            t = config.latent_frames(num_frames)
            if t != latent.shape[2]:
                raise ValueError(
                    f"num_frames = {num_frames}: would be {t} latent frames, "
                    f"but the latent has {latent.shape[2]}; give that of the clip that was encoded"
                )
        self._check_chunk(chunk_frames)
        self._check_tile(tile, as_reference)
        step = None if chunk_frames is None else chunk_frames // f
        parts = []
        for clips in tiles.batches(self.decoder, config, latent, self._arithmetic, step, tile):
            z = clips.to(self.device, self._arithmetic).permute(0, 2, 3, 4, 1).contiguous()
            if as_reference and step:
                decoder = half.in_arithmetic(self.decoder)
                chunks = reference.decode_tiles(decoder, config, z, step)
            else:
                chunks = self._decode_chunks(z, step, tile)
            parts.append(torch.cat(list(chunks), 1))
        y = torch.cat(parts)
        if config.network == "causal_v1_0":
            y = y[:, f - 1 :]
        if num_frames is not None:
            y = y[:, max(0, y.shape[1] - num_frames) :]
        return _channels_first(y.to(self.dtype))

    def _decode_chunks(self, z: Tensor, step: int | None, tile: Tile) -> Iterator[Tensor]:
        decoder = tiles.in_tiles(half.in_arithmetic(self.decoder), self.config, tile)
        stream, length = Stream(self.config.time_rule), z.shape[1]
        for start in range(0, length, step or length):
            end = min(length, start + (step or length))
            yield decoder(z[:, start:end], stream.chunk(first=start == 0, last=end == length))

    @torch.no_grad()
    def decode_indices(
        self,
        indices: Tensor,
        num_frames: int | None = None,
        chunk_frames: int | None = None,
        as_reference: bool = False,
        tile: Tile = None,
        channels: int | None = None,
    ) -> Tensor:
        """Decode FSQ code indices `[B, t, h, w]` to the frames that `decode` gives for their codes.

        Args:
            indices: code indices, or with `channels` prefixes, from `vidtok.prefix_indices`.
            num_frames: this and the others are as in `decode`.
            chunk_frames: as in `decode`.
            as_reference: as in `decode`.
            tile: as in `decode`.
            channels: number of channels of the prefixes; None for code indices.

        Raises:
            ValueError: the model is not FSQ, the indices are not integers in range, or the model
                has no order of channels or does not decode so few.
        """
        name, levels = self.config.name, self.config.fsq_levels
        if (size := self.config.codebook_size) is None:
            raise ValueError(f"{name} is a KL tokenizer and has no code indices; use decode")
        if indices.dim() != 4 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(
                f"indices of shape {tuple(indices.shape)} and {indices.dtype}: "
                "must be integers [B, t, h, w]"
            )
        if channels is None:
            require_range(indices, size, f"{name} has")
            codes = fsq.indices_to_codes(indices, levels)
        elif self.channels is not None:
            codes = self.channels.codes(indices.to(self.device), channels)
        else:
            raise ValueError(
                f"channels = {channels}: {name} has no order of channels; fit one with"
                " `python -m vidtok channels`"
            )
        return self.decode(_channels_first(codes), num_frames, chunk_frames, as_reference, tile)

    def _check_video(self, video: Tensor, check_range: bool) -> None:
        if video.dim() != 5 or video.shape[1] != 3:
            raise ValueError(f"video of shape {tuple(video.shape)}: must be [B, 3, T, H, W]")
        if not video.is_floating_point() and video.dtype != torch.uint8:
            raise ValueError(f"video of {video.dtype}: must be float in [-1, 1], or uint8")
        if video.numel() == 0:
            raise ValueError(f"video of shape {tuple(video.shape)} is empty")
        if video.dtype == torch.uint8 or not check_range:
            return
        low, high = (v.item() for v in torch.aminmax(video))
        if not (low >= -1 - _VALUE_SLACK and high <= 1 + _VALUE_SLACK):
            raise ValueError(
                f"video with values from {low:.4g} to {high:.4g}: must lie in [-1, 1]; "
                "for 8-bit frames use x / 127.5 - 1, or pass them as uint8"
            )

    def _check_chunk(self, chunk_frames: int | None) -> None:
        if chunk_frames is None:
            return
        name, f = self.config.name, self.config.temporal_factor
        if not self.config.time_rule.chunkable:
            raise ValueError(
                f"chunk_frames = {chunk_frames}: only v1.1 networks work in chunks, "
                f"{name} is not one"
            )
        if chunk_frames < f or chunk_frames % f:
            near = max(f, chunk_frames // f * f)
            raise ValueError(
                f"chunk_frames = {chunk_frames}: {name} takes a multiple of {f}; use {near}"
            )

    def _check_tile(self, tile: Tile, as_reference: bool = False) -> None:
        if tile is not None and as_reference:
            raise ValueError(
                f"tile = {tile}: the reference has no exact tiles; leave out tile or as_reference"
            )
        self.config.check_tile(tile)


class EncodeStream:
    """Encoder for clips whose frames arrive in pieces: see `Tokenizer.encode_stream`."""

    def __init__(self, tokenizer: Tokenizer, chunks: Chunks, tile: Tile, check_range: bool) -> None:
        self._tokenizer = tokenizer
        self._chunks = chunks
        self._tile = tile
        self._check_range = check_range

    @torch.no_grad()
    def push(self, video: Tensor) -> Encoded | None:
        """Take frames and return the next latent frames, or None if these frames complete none.

        Args:
            video: `[B, 3, n, H, W]` as in `Tokenizer.encode`, n of any length.

        Raises:
            ValueError: the network does not take such frames, they are more than the clip has, or
                their B, H or W is another than before.
        """
        model = self._tokenizer
        model._check_video(video, self._check_range)
        model.config.check_size(video.shape[3], video.shape[4])
        latents = list(self._chunks.take(model._network_input(video, self._tile)))
        return model._regularize(torch.cat(latents, 1).float()) if latents else None


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1).contiguous()


def build(name_or_config: str | TokenizerConfig, *, seed: int | None = None) -> Tokenizer:
    """Return an untrained tokenizer in eval mode.

    Args:
        name_or_config: a name from `list_models()`, or a configuration.
        seed: seed of the initial weights; the global generator stays as it is. None draws from the
            global generator.

    Raises:
        ValueError: the name is not known.
    """
    config = named_config(name_or_config) if isinstance(name_or_config, str) else name_or_config
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return Tokenizer(config).eval()

"""FSQ indices read as those of fewer channels, in the order of worth of their model.

The order is in the file beside the weights that made the tokens; see `vidtok.channels`.
"""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from torch import Tensor

from pipeline.config.job import HUB, RANDOM
from pipeline.dataset import Dataset
from pipeline.dataset.metadata import code_levels
from pipeline.errors import ConfigError
from vidtok import channels
from vidtok.channels import ChannelOrder
from vidtok.presets import HUB_REPO, bundled_weights, hub_path

Wanted = int | tuple[int, ChannelOrder]
"""Number of channels to keep, alone or with an order; the model's own order otherwise."""


@dataclass(frozen=True, slots=True)
class ChannelPrefix:
    """The first k channels in an order."""

    order: ChannelOrder
    """Order of the channels of one model."""
    k: int
    """Number of channels to keep."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Channels that are kept, the least significant digit first."""
        return self.order.order[: self.k]

    @property
    def codebook_size(self) -> int:
        """Number of prefixes."""
        return self.order.codebook_size(self.k)

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each channel that is kept, the least significant digit first."""
        return tuple(self.order.levels[channel] for channel in self.kept)

    def __call__(self, indices: Tensor) -> Tensor:
        """Return int64 prefixes of code indices of any shape."""
        return self.order.prefix_indices(indices, self.k).long()


def checked(channels: object) -> dict[str, Wanted]:
    """Return the argument `channels` of a reader; None names no column.

    Raises:
        ConfigError: it is not what `TokenDataset` describes.
    """
    if channels is None:
        return {}
    if not isinstance(channels, Mapping):
        raise ConfigError(
            f"channels = {reprlib.repr(channels)}: must give a number for each column, such as"
            ' {"fsq": 4}'
        )
    return {name: _checked(name, wanted) for name, wanted in channels.items()}


def _checked(name: str, wanted: object) -> Wanted:
    match wanted:
        case bool():  # a kind of int
            pass
        case Integral():
            return int(wanted)
        case (Integral() as k, ChannelOrder() as order) if not isinstance(k, bool):
            return int(k), order
    raise ConfigError(
        f"channels: column {name}: {reprlib.repr(wanted)}: must be a number of channels, such as 4,"
        " or one with an order, such as (4, vidtok.channels.read(FILE))"
    )


def not_indices(name: str, known: Iterable[str]) -> ConfigError:
    """Return the error of a column that holds no FSQ indices; `known` are those that do."""
    listed = ", ".join(known) or "none"
    return ConfigError(f"channels: column {name}: holds no FSQ indices; columns that do: {listed}")


def channel_prefix(
    dataset: Dataset, name: str, wanted: Wanted, called: str | None = None
) -> ChannelPrefix:
    """Return the prefix that is wanted of a column of a dataset.

    Args:
        dataset: the dataset.
        name: name of the column there.
        wanted: what to keep.
        called: name of the column in a join, for errors; None is that in the dataset.

    Raises:
        ConfigError: the column has no FSQ indices, it has fewer channels, or its model has no order
            of channels, or one of other weights or levels.
    """
    called = called or name
    if (levels := code_levels(dataset.identity).get(name)) is None:
        raise not_indices(called, code_levels(dataset.identity))
    k, order = wanted if isinstance(wanted, tuple) else (wanted, _own_order(dataset, name, called))
    if order.levels != levels:
        raise ConfigError(
            f"channels: column {called}: its channels have {levels} levels, those of the order"
            f" {order.levels}; take the order of the model that made the tokens"
        )
    try:
        order.codebook_size(k)
    except ValueError as error:
        raise ConfigError(f"channels: column {called}: {error}") from error
    return ChannelPrefix(order, k)


def _own_order(dataset: Dataset, name: str, called: str) -> ChannelOrder:
    """Return the order beside the weights that made the tokens of a column."""
    model = next(column.model for column in dataset.tokenizers if column.name == name)
    specs = {spec["name"]: spec for spec in dataset.config.get("tokenizers", ())}
    given = specs.get(name, {}).get("weights")
    give = f"pass channels={{{called!r}: (k, vidtok.channels.read(FILE))}}"
    if given == RANDOM:
        raise ConfigError(
            f"channels: column {called}: {model} has random weights, which are in no file; {give}"
        )
    weights = _file_of(model) if given in (None, HUB) else Path(given)
    path = channels.beside(weights) if weights is not None else None
    how = f"fit one with `python -m vidtok channels MODEL DATASET`, or {give}"
    if path is None or not path.is_file():
        where = "" if path is None else f" ({path} does not exist)"
        raise ConfigError(
            f"channels: column {called}: {model}{where} has no order of channels; {how}"
        )
    try:
        order = channels.read(path)
    except ValueError as error:
        raise ConfigError(f"channels: column {called}: {error}") from error
    if order.weights not in ("", dataset.digest(name).tensors):
        raise ConfigError(
            f"channels: column {called}: {path} belongs to other weights than those that made the"
            f" tokens; {how}"
        )
    made_by = dataset.identity["tokenizers"][name]
    counted = made_by.get("channels", {}).get("order", order.order)
    if tuple(counted) != order.order:
        raise ConfigError(
            f"channels: column {called}: {path} has another order than that in which"
            f" {name}_channels counts, {tuple(counted)}; restore the file, or {give}"
        )
    return order


def _file_of(model: str) -> Path | None:
    """Return the weights of a model's name as `vidtok.load` finds them; None if not on this node.

    Nothing is downloaded: weights that were never here have no channels file beside them.
    """
    if (bundled := bundled_weights(model)) is not None:
        return bundled
    if (in_repo := hub_path(model)) is None:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(HUB_REPO, in_repo)
    return Path(found) if isinstance(found, str) else None

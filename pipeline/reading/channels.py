"""FSQ indices read as those of fewer channels, in the order of worth of their model.

The order is in the file beside the weights that made the tokens; see `vidtok.channels`.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.dataset import Dataset
from pipeline.dataset.metadata import code_levels
from pipeline.errors import ConfigError
from vidtok import channels
from vidtok.channels import ChannelOrder
from vidtok.presets import bundled_weights

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
    def codebook_size(self) -> int:
        """Number of prefixes."""
        return self.order.codebook_size(self.k)

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each channel that is kept, the least significant digit first."""
        return tuple(self.order.levels[channel] for channel in self.order.order[: self.k])

    def __call__(self, indices: Tensor) -> Tensor:
        """Return int64 prefixes of code indices of any shape."""
        return self.order.prefix_indices(indices, self.k).long()


def channel_prefix(dataset: Dataset, name: str, wanted: Wanted) -> ChannelPrefix:
    """Return the prefix that is wanted of a column of a dataset.

    Raises:
        ConfigError: the column has no FSQ indices, it has fewer channels, or its model has no order
            of channels, or one of other weights or levels.
    """
    if (levels := code_levels(dataset.identity).get(name)) is None:
        known = ", ".join(code_levels(dataset.identity)) or "none"
        raise ConfigError(
            f"channels: column {name}: holds no FSQ indices; columns that do: {known}"
        )
    k, order = wanted if isinstance(wanted, tuple) else (wanted, _own_order(dataset, name))
    if order.levels != levels:
        raise ConfigError(
            f"channels: column {name}: its channels have {levels} levels, those of the order"
            f" {order.levels}; take the order of the model that made the tokens"
        )
    try:
        order.codebook_size(k)
    except ValueError as error:
        raise ConfigError(f"channels: column {name}: {error}") from error
    return ChannelPrefix(order, k)


def _own_order(dataset: Dataset, name: str) -> ChannelOrder:
    """Return the order beside the weights that made the tokens of a column."""
    model = next(column.model for column in dataset.tokenizers if column.name == name)
    specs = {spec["name"]: spec for spec in dataset.config.get("tokenizers", ())}
    given = specs.get(name, {}).get("weights")
    weights = Path(given) if given else bundled_weights(model)
    path = channels.beside(weights) if weights is not None else None
    how = (
        "fit one with `python -m vidtok channels MODEL DATASET`, or pass"
        f" channels={{{name!r}: (k, vidtok.channels.read(FILE))}}"
    )
    if path is None or not path.is_file():
        where = "" if path is None else f" ({path} does not exist)"
        raise ConfigError(
            f"channels: column {name}: {model}{where} has no order of channels; {how}"
        )
    try:
        order = channels.read(path)
    except ValueError as error:
        raise ConfigError(f"channels: column {name}: {error}") from error
    if order.weights not in ("", dataset.digest(name).weights):
        raise ConfigError(
            f"channels: column {name}: {path} belongs to other weights than those that made the"
            f" tokens; {how}"
        )
    return order

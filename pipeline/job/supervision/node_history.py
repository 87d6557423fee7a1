"""What the nodes of the cluster have shown in a run, and what follows for the next units."""

from collections import Counter
from typing import Final

_BLAMED_AFTER: Final = 2
"""Units that a node gives up, and finishes none, before it is blamed."""


class NodeHistory:
    """Remembers by node which units it decoded and gave up.

    Attributes:
        blind: names of the nodes that do not see the output.
    """

    def __init__(self) -> None:
        self.blind: set[str] = set()
        self._decoded: Counter[str] = Counter()
        self._given_up: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._unreadable: dict[str, set[str]] = {}

    def decoded(self, node: str) -> None:
        """Note that a node read and decoded a unit."""
        self._decoded[node] += 1

    def gave_up(self, node: str, reason: str) -> None:
        """Note that a node could not read or decode a unit."""
        self._given_up[node] += 1
        self._reasons[node] = reason

    def believes(self, unit: str, node: str, num_nodes: int) -> bool:
        """Return whether a node is right that no file of a unit can be read.

        It is if it has read other units, if another node says the same, or if it is the only one.
        Otherwise a folder may be away on this node alone.
        """
        said = self._unreadable.setdefault(unit, set())
        said.add(node)
        return num_nodes == 1 or self._decoded[node] > 0 or len(said) > 1

    def avoided(self) -> dict[str, str]:
        """Return the nodes that shall decode no more, with the reason.

        They gave units up and finished none, while another node finished some.
        """
        if not self._decoded:
            return {}
        return {
            node: f"{count} units given up there and none finished: {self._reasons[node]}"
            for node, count in self._given_up.items()
            if count >= _BLAMED_AFTER and not self._decoded[node]
        }

    def lines(self) -> list[str]:
        """Return a line for each node that is at fault."""
        lines = [f"node {node}: decode: {why}" for node, why in sorted(self.avoided().items())]
        return lines + [f"node {node} does not see the output" for node in sorted(self.blind)]

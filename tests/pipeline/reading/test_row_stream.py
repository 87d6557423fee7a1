"""The stream of row groups, over parts that exist by name alone."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.records import Part
from pipeline.reading.epoch_order import Shuffle
from pipeline.reading.row_stream import Piece, RowStream

group_sizes = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=40)


class Parts:
    """Parts with row groups of the sizes given; remembers whose footers were read."""

    def __init__(self, sizes: list[list[int]]) -> None:
        self.sizes = {f"p{n}": rows for n, rows in enumerate(sizes)}
        self.parts = [
            Part(path=path, bucket="b", rows=sum(rows), bytes=1, sha256="")
            for path, rows in self.sizes.items()
        ]
        self.asked: list[str] = []

    def group_runs(self, part: Part) -> list[list[int]]:
        self.asked.append(part.path)
        return [[rows] for rows in self.sizes[part.path]]

    def stream(self, shuffle: Shuffle) -> RowStream:
        return RowStream(self.parts, 0, shuffle, self.group_runs)


def rows(pieces: list[Piece]) -> list[tuple[str, int, int]]:
    return [(p.part.path, p.group, row) for p in pieces for row in range(p.first, p.stop)]


@given(sizes=group_sizes, seed=st.integers(0, 9), on=st.booleans(), draw=st.randoms())
def test_any_cut_gives_the_same_rows_each_once(
    sizes: list[list[int]], seed: int, on: bool, draw: random.Random
) -> None:
    made = Parts(sizes)
    total = sum(part.rows for part in made.parts)
    whole = rows(made.stream(Shuffle(seed, 0, on)).pieces(0, total))
    every = [
        (path, group, row)
        for path, groups in made.sizes.items()
        for group, count in enumerate(groups)
        for row in range(count)
    ]
    assert sorted(whole) == sorted(every)
    if not on:
        assert whole == every
    stream = made.stream(Shuffle(seed, 0, on))
    for _ in range(5):
        first, stop = sorted(draw.choices(range(total + 1), k=2))
        assert rows(stream.pieces(first, stop)) == whole[first:stop]


def test_footers_are_read_of_the_packs_asked_for_and_once() -> None:
    made = Parts([[10]] * 32)
    stream = made.stream(Shuffle(0, 0))
    stream.pieces(90, 95)
    stream.pieces(100, 150)
    assert len(made.asked) == len(set(made.asked)) == 8
    stream.pieces(79, 81)
    assert len(made.asked) == len(set(made.asked)) == 16


def test_neighbours_come_from_several_parts() -> None:
    made = Parts([[10] * 8] * 16)
    pieces = made.stream(Shuffle(0, 0)).pieces(0, 160)
    assert len({piece.part.path for piece in pieces}) >= 6
    assert max(Counter(piece.part.path for piece in pieces).values()) <= 6


def test_epochs_order_parts_and_groups_anew() -> None:
    made = Parts([[1, 1]] * 20)
    orders = [str(rows(made.stream(Shuffle(0, epoch)).pieces(0, 40))) for epoch in range(3)]
    assert len(set(orders)) == 3


def test_row_groups_of_a_run_stay_together() -> None:
    made = Parts([[2] * 6, [2] * 6])
    stream = RowStream(made.parts, 0, Shuffle(3, 0), lambda part: [[2, 2], [2, 2, 2], [2]])
    groups = [(piece.part.path, piece.group) for piece in stream.pieces(0, 24)]
    starts = [groups.index((path, group)) for path in ("p0", "p1") for group in (0, 2, 5)]
    for start, length in zip(starts, (2, 3, 1, 2, 3, 1), strict=True):
        path, first = groups[start]
        assert groups[start : start + length] == [(path, first + n) for n in range(length)]
    assert sorted(starts) != starts, "runs are shuffled"

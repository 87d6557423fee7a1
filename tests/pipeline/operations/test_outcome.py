"""Results become plain values and lines by one rule."""

import json
from collections import Counter
from dataclasses import dataclass, field

from pipeline.formatting import labelled
from pipeline.operations.findings import Finding
from pipeline.operations.outcome import Outcome, first_of, plain


@dataclass(slots=True, kw_only=True)
class Made(Outcome):
    output: str
    found: list[Finding] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    names: frozenset[str] = frozenset()
    place: tuple[int, int] | None = None
    by_number: dict[int, Finding | None] = field(default_factory=dict)
    hidden: object = field(default=None, repr=False)

    def lines(self) -> list[str]:
        return [labelled("output", self.output)]


def test_every_field_becomes_a_plain_value() -> None:
    finding = Finding("rows", "a", "b")
    made = Made(
        output="o",
        found=[finding],
        reasons=Counter("aab"),
        names=frozenset("cab"),
        place=(1, 2),
        by_number={3: finding, 4: None},
    )
    told = {"kind": "rows", "where": "a", "detail": "b"}
    expected = {
        "output": "o",
        "found": [told],
        "reasons": {"a": 2, "b": 1},
        "names": ["a", "b", "c"],
        "place": [1, 2],
        "by_number": {"3": told, "4": None},
    }
    assert made.to_dict() == json.loads(json.dumps(made.to_dict())) == expected
    assert Made(output="o").to_dict()["place"] is None
    assert made.exit_code == 0


def test_scalars_stay() -> None:
    assert [plain(value) for value in (None, True, 1, 0.5, "x")] == [None, True, 1, 0.5, "x"]


def test_labels_line_up() -> None:
    assert labelled("a", 1) == "a          1"
    assert labelled("quarantine", "x").index("x") == labelled("", "x").index("x")


def test_a_list_is_cut_and_says_so() -> None:
    assert list(first_of(3, ["a", "b"], "> ")) == ["> a", "> b", "> and 1 more"]
    assert list(first_of(2, ["a", "b"])) == ["  a", "  b"]

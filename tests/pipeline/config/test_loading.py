"""One reader serves every kind of configuration, with a file or from the command line alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import PositiveInt

from pipeline.config.loading import Fault, load
from pipeline.config.section import Section
from pipeline.errors import ConfigError


class Engine(Section):
    cylinders: PositiveInt


class Car(Section):
    engine: Engine
    seats: PositiveInt = 4
    colour: str = "red"


def no_red_limousine(car: Car) -> Sequence[Fault]:
    if car.seats > 6 and car.colour == "red":
        return [Fault("seats", car.seats, "red cars have 6 at most", "paint it")]
    return []


def test_a_file_and_overrides_make_the_model_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("engine: {cylinders: 4}\nseats: 2\n")
    car = load(str(path), ["engine.cylinders=6"], Car)
    assert car == Car(engine=Engine(cylinders=6), seats=2)


def test_the_command_line_alone_is_enough() -> None:
    assert load(None, ["engine.cylinders=6", "colour=blue"], Car).colour == "blue"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([], "command line: engine: is required; give it a value"),
        (["engine.cylinder=6"], "command line: engine.cylinder: no such key; did you mean"),
        (["engine.cylinders=6", "cylinders=8"], "command line: cylinders: no such key; did you"),
        (
            ["engine.cylinders=6", "seats=7"],
            "command line: seats = 7: red cars have 6 at most; paint it",
        ),
    ],
)
def test_faults_are_told_in_terms_of_that_model(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides, Car, no_red_limousine)
    assert any(found.startswith(line) for found in str(caught.value).splitlines())


def test_a_file_without_sections_is_told_that_models_sections(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("[17]")
    with pytest.raises(ConfigError, match=r"must hold sections \(engine, seats, colour\)"):
        load(str(path), [], Car)

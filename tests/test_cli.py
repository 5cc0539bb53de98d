import click
import pytest

from docsgpt_embtune.cli.common import minutes

COMMAND = click.Command("train", params=[click.Option(["--time-budget"], callback=minutes)])


def read(*told: str) -> object:
    return COMMAND.make_context("train", list(told)).params["time_budget"]


@pytest.mark.parametrize(("told", "expected"), [("20", 20), ("2.5", 2.5), ("90s", 1.5), ("10m", 10), ("1.5h", 90)])
def test_time_has_a_unit_or_is_in_minutes(told, expected):
    assert read("--time-budget", told) == pytest.approx(expected)


def test_no_time_is_none():
    assert read() is None


@pytest.mark.parametrize("told", ["", "m", "ten", "10 min", "1h30m", "10d"])
def test_other_times_are_refused_with_what_would_do(told):
    with pytest.raises(click.BadParameter, match=r"is not a time like 90s, 10m or 1\.5h"):
        read("--time-budget", told)

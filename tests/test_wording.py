import pytest

from docsgpt_embtune.wording import clock, counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 chunks"), (1, "1 chunk"), (2, "2 chunks"), (10_000, "10,000 chunks")]
)
def test_one_is_singular(number, said):
    assert counted(number, "chunk") == said


@pytest.mark.parametrize(("seconds", "said"), [(16.4, "16 s"), (60, "1 min 00 s"), (3725, "62 min 05 s")])
def test_a_time_has_minutes_from_one_on(seconds, said):
    assert clock(seconds) == said

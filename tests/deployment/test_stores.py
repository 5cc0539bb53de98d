import pytest

from docsgpt_embtune.deployment.stores import spread


@pytest.mark.parametrize(
    ("total", "size", "positions"), [(10, 3, [0, 4, 9]), (2, 3, [0, 1]), (5, 1, [0]), (0, 3, []), (3, 3, [0, 1, 2])]
)
def test_sample_is_spread_evenly_from_the_first_to_the_last(total, size, positions):
    assert spread(total, size) == positions

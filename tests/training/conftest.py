"""How fast a tiny model learns."""

import pytest

from .recipe_runs import learning_quickly


@pytest.fixture(scope="module")
def quick_learning():
    with learning_quickly():
        yield

"""How fast a tiny model learns."""

from dataclasses import replace

import pytest


@pytest.fixture(scope="module")
def quick_learning():
    """A tiny model with random weights learns at another rate than a real one."""
    from docsgpt_embtune.training import recipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "RANKING", replace(recipe.RANKING, batch_size=4, learning_rate=3e-3))
        yield

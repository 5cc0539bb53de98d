import pytest

from docsgpt_embtune.wording import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 chunks"), (1, "1 chunk"), (2, "2 chunks"), (10_000, "10,000 chunks")]
)
def test_one_is_singular(number, said):
    assert counted(number, "chunk") == said

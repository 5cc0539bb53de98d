"""What several of these tests set up."""

import pytest


@pytest.fixture
def every_line(monkeypatch):
    """Let a bar leave each of its lines, where there is no terminal."""
    monkeypatch.setattr("docsgpt_embtune.progress.SECONDS_BETWEEN_LINES", 0)

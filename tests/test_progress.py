"""What long work shows in a log, where there is no terminal."""

import io
import itertools
import sys

from docsgpt_embtune.progress import Bar, LinesNowAndThen


def test_log_gets_a_whole_line_once_in_a_minute():
    log = io.StringIO()
    seconds = itertools.count(0, 10)  # between two looks at the clock
    steps = Bar(range(60), desc="chunks", unit="step", mininterval=0, file=LinesNowAndThen(log, lambda: next(seconds)))
    assert list(steps) == list(range(60))
    lines = log.getvalue().splitlines()
    assert 4 <= len(lines) <= 10
    assert all(line.startswith("chunks: ") and "step/s" in line for line in lines)
    assert not set("\r\x1b") & set(log.getvalue())


def test_what_is_over_at_once_leaves_nothing_in_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Bar(total=2, desc="outer") as outer, Bar(total=2, desc="inner") as inner:
        inner.update()
        outer.update()
        outer.set_postfix(loss=0.5)
    assert sys.stderr.getvalue() == ""


def test_terminal_gets_a_bar_that_goes(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    list(Bar(range(3), desc="chunks", mininterval=0))
    shown = sys.stderr.getvalue()
    assert "chunks: 100%" in shown
    assert shown.endswith("\r")


def test_without_a_stderr_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(Bar(range(3))) == [0, 1, 2]

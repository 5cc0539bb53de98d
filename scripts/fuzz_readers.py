"""Fuzz every reader with damaged files: each file must either be read or be refused with a one-line error.

    python scripts/fuzz_readers.py --number 10000

A small dataset is written in each format, and one of its files is damaged: bytes are changed, cut off, inserted, left
out or repeated, or a JSON value is replaced. Each damaged dataset is read, except that by default every 40th goes
through the whole of `embtune prepare`. Errors that the command line does not handle, and reads of more than ten
seconds, are printed.
"""

import json
import random
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from docsgpt_embtune.cli import main as embtune
from docsgpt_embtune.data.dataset import RetrievalDataset, checked
from docsgpt_embtune.data.formats.content import text_id
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.registry import FORMATS, read_content
from docsgpt_embtune.errors import EmbtuneError
from docsgpt_embtune.progress import Bar

SECONDS = 10
_SUFFIX = {"explicit": ".json", "article": ".json", "llamaindex": ".json", "csv": ".csv", "excel": ".xlsx"}
_ODD_VALUES: tuple[Any, ...] = (None, True, -1, 1e308, "", " ", "\ud800", "\0", [], {}, [[]], {"a": [1]}, "x" * 10_000)
_ODD_BYTES = (
    *(b"\0", b"\xff", b'"', b"'", b"{", b"[", b"}", b",", b"\n", b"\r\n", b"\t", b"\\ud800", b"NaN"),
    b"9" * 5000,
)


def seeds(folder: Path) -> list[tuple[str, Path]]:
    """Write a small dataset in each format."""
    texts = [f"Chunk {number}, with “quotes”;\nand a second line of text." for number in range(6)]
    queries = [f"Question {number}: how is that?" for number in range(4)]
    dataset = RetrievalDataset(
        {text_id(query): query for query in queries},
        {text_id(text): text for text in texts},
        {text_id(query): (text_id(texts[number]),) for number, query in enumerate(queries)},
        {text_id(query): (text_id(texts[number + 1]),) for number, query in enumerate(queries)},
    )
    written = []
    for name, each in FORMATS.items():
        path = folder / name / f"data{_SUFFIX.get(name, '')}"
        each.write(dataset, path)
        written.append((name, path))
    return written


def damage(path: Path, draw: random.Random) -> None:
    """Damage a file, or one file of a folder, once or a few times."""
    file = draw.choice([each for each in sorted(path.rglob("*")) if each.is_file()]) if path.is_dir() else path
    content = file.read_bytes()
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        content = draw.choice(_DAMAGES)(content, draw)
    file.write_bytes(content)
    if path.is_dir() and draw.random() < 0.02:
        file.unlink()


def _change_byte(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]


def _cut_off(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _put_in(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(_ODD_BYTES) + content[place:]


def _leave_out(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.randrange(1, 40) :]


def _say_twice(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    part = content[start : start + draw.randrange(1, 200)]
    return content[:start] + part + part + content[start + len(part) :]


def _exchange_value(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    number = draw.randrange(len(lines))
    for whole in (content, lines[number]):
        try:
            value = json.loads(whole)
        except ValueError:
            continue
        if isinstance(value, (dict, list)) and value:
            changed = json.dumps(_exchanged(value, draw)).encode()
            return changed if whole is content else b"\n".join([*lines[:number], changed, *lines[number + 1 :]])
    return _change_byte(content, draw)


def _exchanged(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.2:
        return draw.choice(_ODD_VALUES)
    if isinstance(value, list):
        place = draw.randrange(len(value))
        return [*value[:place], _exchanged(value[place], draw), *value[place + 1 :]]
    key = draw.choice(list(value))
    return {**value, key: _exchanged(value[key], draw)}


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _change_byte,
    _cut_off,
    _put_in,
    _leave_out,
    _say_twice,
    _exchange_value,
    _exchange_value,
)


@contextmanager
def _time_limit() -> Iterator[None]:
    def ring(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(path: Path) -> str:
    """Read as the commands do; return "read", "refused" or the failure."""
    try:
        with _time_limit():
            checked(read_content(path, ReadOptions(relevant_docs="all-good")))
    except EmbtuneError as error:
        return "refused" if str(error).strip() else "refused without a word"
    except BaseException:
        return traceback.format_exc()
    return "read"


def prepare(path: Path) -> str:
    """Run `embtune prepare`; return "read", "refused" or the failure."""
    arguments = ["prepare", str(path), "--relevant-docs", "all-good", "--model", "none"]
    try:
        with _time_limit():
            result = CliRunner().invoke(embtune, arguments)
    except TimeoutError as error:
        return str(error)
    # The progress bars of `prepare` are nested below this script's, and leave "cursor up" and blanks before the error.
    lines = [line.strip() for line in result.stderr.replace("\x1b[A", "").splitlines()]
    if result.exit_code == 2 and lines and lines[-1].startswith("error: "):
        return "refused"
    done = result.exit_code in (0, 1) and isinstance(result.exception, (SystemExit, type(None)))
    return "read" if done else "".join(traceback.format_exception(result.exception))


def fuzz(number: int, seed: int, prepare_every: int) -> tuple[Counter[str], list[str]]:
    """Read `number` damaged datasets; return the outcomes by format, and the failures: neither read nor refused."""
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = seeds(folder / "seeds")
        # A first run, so that imports and unpacking at first use do not count towards the time limit.
        CliRunner().invoke(embtune, ["prepare", str(written[0][1]), "--model", "none"])
        for turn in Bar(range(number), desc="fuzzing"):
            format_name, seed_path = written[turn % len(written)]
            path = folder / "damaged" / seed_path.name
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            if seed_path.is_dir():
                shutil.copytree(seed_path, path)
            else:
                shutil.copy(seed_path, path)
            damage(path, draw)
            outcome = prepare(path) if prepare_every and turn % prepare_every == prepare_every - 1 else read(path)
            if outcome not in ("read", "refused"):
                failures.append(f"{format_name}, turn {turn}:\n{outcome}")
            outcomes[f"{format_name}: {outcome if outcome in ('read', 'refused') else 'FAILED'}"] += 1
    return outcomes, failures


@click.command()
@click.option("--number", default=10_000, show_default=True, help="Damaged datasets.")
@click.option("--seed", default=0, show_default=True)
@click.option("--prepare-every", default=40, show_default=True, help="Every so many go through `embtune prepare`.")
def main(number: int, seed: int, prepare_every: int) -> None:
    """Print the outcomes, and end with exit code 1 if anything was neither read nor refused."""
    outcomes, failures = fuzz(number, seed, prepare_every)
    for outcome, count in sorted(outcomes.items()):
        click.echo(f"{outcome:32} {count:,}")
    for failure in failures[:20]:
        click.echo(failure)
    click.echo(f"{number:,} damaged datasets, {len(failures)} neither read nor refused")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

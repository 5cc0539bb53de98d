"""`embtune convert` and `embtune prepare`."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from typing import Any

import click

from docsgpt_embtune.cli.command import EXIT_NO, EmbtuneCommand
from docsgpt_embtune.cli.options import relevant_docs_option, together
from docsgpt_embtune.data.dataset import checked
from docsgpt_embtune.data.formats.options import ROLES, ReadOptions
from docsgpt_embtune.data.new_output import is_private, moved_when_good, refuse_existing_output
from docsgpt_embtune.destinations import folder_above
from docsgpt_embtune.errors import DatasetError

# The registry's names, copied so that `embtune --help` needs no pyarrow; a test keeps the two in step.
FORMATS = (
    *("explicit", "article", "llamaindex", "beir", "flag-embedding", "tevatron", "ragas", "autorag", "hugging-face"),
    *("jsonl", "csv", "excel", "parquet"),
)


def _columns(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, str]:
    parts = [part.partition("=") for part in (value or "").split(",") if part]
    pairs = [(role.strip(), column) for role, _, column in parts]  # without a blank after the comma
    wrong = [role for role, column in pairs if role not in ROLES or not column]
    if wrong:
        raise click.BadParameter(f"{value!r}: {wrong[0]!r} is not ROLE=COLUMN with a role of {', '.join(ROLES)}")
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(role for role, count in Counter(role for role, _ in pairs).items() if count > 1)
        raise click.BadParameter(
            f"{value!r}: names {twice!r} twice; give each role one column (several good or bad ones: call them good_1, "
            "good_2, … or bad_1, …)"
        )
    return named


reading_options = together(
    click.option("--from", "format_name", type=click.Choice(FORMATS), help="The source's format, if unclear."),
    click.option("--corpus", type=click.Path(path_type=Path), help="The chunks, where the source lacks them."),
    click.option("--columns", callback=_columns, help="Columns of a table: question=NAME,good=NAME,bad=NAME,…"),
    click.option("--good-score", type=float, help="Score from which on a chunk is good, where a table has scores."),
    relevant_docs_option,
)


@click.command(cls=EmbtuneCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "to_name", type=click.Choice(FORMATS), required=True, help="Format to write.")
@reading_options
def convert(source: Path, out: Path, to_name: str, format_name: str | None, **options: Any) -> None:
    """Write a dataset in another format.

    OUT must not exist. What was written is read again, and its texts and judgments compared, before it is put there.
    """
    import datasets

    from docsgpt_embtune.data.formats.registry import FORMATS as formats
    from docsgpt_embtune.data.formats.registry import read_content
    from docsgpt_embtune.data.formats.round_trip import lost_by_writing

    refuse_existing_output(out)
    datasets.disable_progress_bars()
    dataset = checked(read_content(source, ReadOptions(**options), name=format_name))
    target = formats[to_name]
    with moved_when_good(out, private=is_private(source)) as partial, _naming(out, partial):
        target.write(dataset, partial)
        written = checked(read_content(partial, target.reading_back, name=to_name))
        lost = lost_by_writing(dataset, written, out, to_name)
    click.echo(f"{source}: {dataset.describe()}")
    click.echo(f"{out}: {written.describe()}")
    if lost:
        click.echo(f"{to_name} has no place for: {', '.join(lost)}")


@contextmanager
def _naming(out: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(partial), str(out))) from error


def _shares(_context: click.Context, _option: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        parts = [float(part) for part in value.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 100 for part in parts) or not isclose(sum(parts), 100):
        raise click.BadParameter(f"{value!r} is not three shares that make 100, like 70,15,15")
    if not parts[0]:
        raise click.BadParameter(
            f"{value!r} leaves no question for training; give the first share more than 0, like 70,15,15"
        )
    return tuple(part / 100 for part in parts)


@click.command(cls=EmbtuneCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write train, validation and test into this new folder.")
@click.option("--fix", is_flag=True, help="Mend what can be mended; every change is logged in OUT/changes.jsonl.")
@click.option(
    "--held-out",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File whose questions must stay unseen. Repeatable.",
)
@click.option(
    "--split",
    "shares",
    default="70,15,15",
    show_default=True,
    callback=_shares,
    help="Shares of train, validation and test.",
)
@click.option("--by-date", is_flag=True, help="The newest questions are the test's, the oldest the training's.")
@click.option(
    "--document-of",
    type=click.Path(path_type=Path),
    help="The file that `embtune chunks --document-of` wrote: no document is on two sides then.",
)
@click.option(
    "--model", default="bundled", show_default=True, help="Tells whether a bad chunk answers; 'none' for none."
)
@click.option("--cross-encoder", help="Folder or hub name of a cross-encoder to ask instead.")
@click.option("--seed", type=int, default=0, show_default=True)
@reading_options
def prepare(
    source: Path,
    out: Path | None,
    fix: bool,
    held_out: tuple[Path, ...],
    shares: tuple[float, float, float],
    by_date: bool,
    document_of: Path | None,
    model: str,
    cross_encoder: str | None,
    seed: int,
    format_name: str | None,
    **options: Any,
) -> None:
    """Check a dataset for what ruins a model, mend it, split it.

    No answer is on two sides of the split.
    Exit code 1 if something serious is found and not fixed.
    """
    import datasets

    from docsgpt_embtune.data.formats.registry import read_held_out
    from docsgpt_embtune.data.preparation.fault_check import CheckSettings
    from docsgpt_embtune.data.preparation.prepare import SplitSettings
    from docsgpt_embtune.data.preparation.prepare import prepare as check_and_split
    from docsgpt_embtune.data.preparation.store import opened
    from docsgpt_embtune.data.preparation.summary import summary

    if fix and out is None:
        raise click.UsageError("--fix writes new files: say where with --out FOLDER")
    if out is not None:
        refuse_existing_output(out)
    datasets.disable_progress_bars()
    reading = ReadOptions(**options)
    unseen = [read_held_out(path, reading) for path in held_out]
    with opened(source, reading, name=format_name, near=folder_above(out) if out else None) as store:
        if document_of is not None:
            store.add_documents(document_of)
        report = check_and_split(
            store,
            held_out=unseen,
            settings=CheckSettings(model=None if model == "none" else model, cross_encoder=cross_encoder),
            fix=fix,
            out=out,
            split=SplitSettings(shares=shares, by_date=by_date, seed=seed),
            private=is_private(source),
        )
    click.echo(summary(source, report))
    if not report.usable:
        sys.exit(EXIT_NO)

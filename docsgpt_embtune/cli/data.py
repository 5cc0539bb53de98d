"""`embtune convert` and `embtune prepare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from docsgpt_embtune.cli.common import EmbtuneCommand, relevant_docs_option
from docsgpt_embtune.data.dataset import checked
from docsgpt_embtune.data.formats.options import ReadOptions

# The registry's names, here so that `embtune --help` needs no pyarrow; a test holds the two together.
FORMATS = (
    "explicit",
    "article",
    "llamaindex",
    "beir",
    "flag-embedding",
    "tevatron",
    "ragas",
    "autorag",
    "hugging-face",
    "jsonl",
    "csv",
    "excel",
    "parquet",
)


def _columns(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, str]:
    roles = ("question", "good", "bad", "score", "date", "document")
    named = dict(part.partition("=")[::2] for part in (value or "").split(",") if part)
    wrong = [role for role, column in named.items() if role not in roles or not column]
    if wrong:
        raise click.BadParameter(f"{value!r}: {wrong[0]!r} is not ROLE=COLUMN with a role of {', '.join(roles)}")
    return named


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that settle what a source means."""
    for option in (
        click.option("--from", "format_name", type=click.Choice(FORMATS), help="The source's format, if unclear."),
        click.option("--corpus", type=click.Path(path_type=Path), help="The chunks, where the source lacks them."),
        click.option("--columns", callback=_columns, help="Columns of a table: question=NAME,good=NAME,bad=NAME,…"),
        click.option("--good-score", type=float, help="Score from which on a chunk is good, where a table has scores."),
        relevant_docs_option,
    ):
        function = option(function)
    return function


@click.command(cls=EmbtuneCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "to_name", type=click.Choice(FORMATS), required=True, help="Format to write.")
@reading_options
def convert(source: Path, out: Path, to_name: str, format_name: str | None, **options: Any) -> None:
    """Read a dataset in one format and write it in another; what was written is read again and compared."""
    import datasets

    from docsgpt_embtune.data.formats.registry import FORMATS as formats
    from docsgpt_embtune.data.formats.registry import read_content

    datasets.disable_progress_bars()
    dataset = checked(read_content(source, ReadOptions(**options), name=format_name))
    target = formats[to_name]
    target.write(dataset, out)
    written = checked(read_content(out, target.reading_back, name=to_name))
    click.echo(f"{source}: {dataset.describe()}")
    click.echo(f"{out}: {written.describe()}")
    if written.describe() != dataset.describe():
        click.echo(f"{to_name} has no place for the rest")

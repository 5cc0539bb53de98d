"""`embtune export`."""

from pathlib import Path
from typing import Any

import click

from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.cli.options import relevant_docs_option
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs


@click.command(cls=EmbtuneCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", help="Validation questions, to decide by: never the test questions.")
@click.option("--corpus", help="The chunks, where --data does not hold them.")
@click.option(
    "--windows",
    type=click.Choice(["auto", "off", "mean"]),
    default="auto",
    show_default=True,
    help="Long chunks: only their beginning, or windows over all of it; auto does what --data gains by.",
)
@click.option("--max-seq-length", type=int, help="Tokens to read at a time; what --data gains by, if not given.")
@relevant_docs_option
def export(
    folder: Path,
    data: str | None,
    corpus: str | None,
    windows: Any,
    max_seq_length: int | None,
    relevant_docs: RelevantDocs | None,
) -> None:
    """Write graphs for fast serving into a tuned folder.

    onnxruntime computes them. --data decides which of them serves, and how long chunks are read.
    """
    from docsgpt_embtune.exporting.export import export as export_graphs
    from docsgpt_embtune.exporting.summary import summary

    report = export_graphs(
        folder,
        load_dataset(data, corpus=corpus, relevant_docs=relevant_docs) if data else None,
        windows=None if windows == "auto" else windows,
        max_seq_length=max_seq_length,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(summary(report))

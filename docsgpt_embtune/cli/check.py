"""`embtune check`."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from docsgpt_embtune.cli.command import EXIT_NO, EmbtuneCommand
from docsgpt_embtune.cli.options import cache_option, load_guard, refuse_unwritable, relevant_docs_option, whole_numbers
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.data.new_output import is_private
from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.files import PRIVATE, PUBLIC, write_text_atomically
from docsgpt_embtune.urls import is_url, without_credentials

OUT_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


def _cutoffs(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    return tuple(sorted(set(whole_numbers(context, option, value))))


@click.command(cls=EmbtuneCommand)
@click.option("--baseline", required=True, help="The model to beat: a hub name, a folder, 'bundled', or URL#MODEL.")
@click.option("--tuned", required=True, help="The tuned model's folder.")
@click.option("--data", required=True, help="Questions that the tuned model never saw, with their good chunks.")
@click.option("--corpus", help="The chunks, where --data does not hold them.")
@click.option(
    "--k", "ks", default="1,2,3,5,10,20", show_default=True, callback=_cutoffs, help="Cutoffs of the metrics."
)
@click.option(
    "--store",
    type=click.Choice(["faiss", "langchain"]),
    default="faiss",
    show_default=True,
    help="What ranks; langchain is what DocsGPT before 0.19 took. Both rank alike.",
)
@click.option("--guard", "guards", multiple=True, help="Questions of another source: FILE, or FILE,CORPUS. Repeatable.")
@relevant_docs_option
@cache_option
@click.option("--no-cache", is_flag=True, help="Embed everything anew, and keep nothing.")
@click.option("--json", "json_path", type=OUT_FILE, help="Write every number to this file.")
@click.option("--report", "report_path", type=OUT_FILE, help="Write a report to look at: one HTML file.")
def check(
    baseline: str,
    tuned: str,
    data: str,
    corpus: str | None,
    ks: tuple[int, ...],
    store: Any,
    guards: tuple[str, ...],
    relevant_docs: RelevantDocs | None,
    cache: Path | None,
    no_cache: bool,
    json_path: Path | None,
    report_path: Path | None,
) -> None:
    """Prove, or refuse to claim, that a tuned model finds more.

    Chunks are searched as DocsGPT searches them; the baseline is the model that is in use. URL#MODEL is one behind a
    server, as EMBEDDINGS_BASE_URL and EMBEDDINGS_NAME have it; its key, if any, comes from EMBEDDINGS_KEY.
    """
    from docsgpt_embtune.evaluation.report import write_report  # now, so that a missing package shows early
    from docsgpt_embtune.evaluation.retrieval_check import check_retrieval
    from docsgpt_embtune.evaluation.summary import summary

    if is_url(tuned):
        raise EvaluationError(
            f"--tuned {without_credentials(tuned)}: is a server's address; give the tuned model's folder (a model "
            "behind a server can be the --baseline)"
        )
    read = [data, *([corpus] if corpus else []), *(file for guard in guards for file in guard.split(","))]
    refuse_unwritable(json_path, report_path, read=map(Path, read))
    mode = PRIVATE if any(is_private(Path(file)) for file in read) else PUBLIC
    report = check_retrieval(
        baseline,
        tuned,
        load_dataset(data, corpus=corpus, relevant_docs=relevant_docs),
        guards={guard: load_guard(guard, relevant_docs) for guard in guards},
        ks=ks,
        store=store,
        cache=None if no_cache else cache,
        say=partial(tqdm.write, file=sys.stderr),
    )
    try:
        if json_path:
            numbers = json.dumps(report.to_json(), ensure_ascii=False, indent=1)
            write_text_atomically(json_path, f"{numbers}\n", mode=mode)
        if report_path:
            write_report(report, report_path, mode=mode)
    finally:  # after the files, but printed even if a disk is full
        click.echo(summary(report))
    if not report.proven:
        sys.exit(EXIT_NO)

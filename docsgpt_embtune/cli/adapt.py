"""`embtune adapt`."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from docsgpt_embtune.cli.common import EXIT_NO, EmbtuneCommand, hide_loading_bars, relevant_docs_option
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.urls import is_url


@click.command(cls=EmbtuneCommand)
@click.option(
    "--model", required=True, help="What made the stored vectors: a folder, a hub name, 'bundled', or URL#MODEL."
)
@click.option("--train", "train_path", required=True, help="Questions to learn from, with their good chunks.")
@click.option("--val", "val_path", help="More of them: cross-validation chooses, so that none need be held out.")
@click.option("--corpus", help="The chunks, where the question files do not hold them.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option("--seed", type=int, default=13, show_default=True)
@click.option(
    "--keywords", is_flag=True, help="Put keywords beside a server's vectors, too, where that gains: chunks embed anew."
)
@click.option("--keep-worse", is_flag=True, help="Write the folder even if cross-validation does not prefer it.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder that keeps vectors; your cache folder if not given."
)
@relevant_docs_option
def adapt(
    model: str,
    train_path: str,
    val_path: str | None,
    corpus: str | None,
    out: Path,
    seed: int,
    keywords: bool,
    keep_worse: bool,
    cache: Path | None,
    relevant_docs: Any,
) -> None:
    """Tune the question's vector alone: nothing is re-embedded.

    It takes seconds, and stored chunks stay as they are, unless --keywords puts some beside theirs.
    URL#MODEL is a model behind a server, as EMBEDDINGS_BASE_URL and EMBEDDINGS_NAME have it: it gets the questions and
    the chunks, and the key in EMBEDDINGS_KEY, if any.
    """
    from docsgpt_embtune.evaluation.vectors import default_cache_folder
    from docsgpt_embtune.training.adapting import adapt as fit_and_write
    from docsgpt_embtune.training.adapting import summary

    hide_loading_bars()
    report = fit_and_write(
        load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs),
        load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None,
        out,
        model=model,
        cache=cache or default_cache_folder(),
        seed=seed,
        keywords=keywords,
        keep_worse=keep_worse,
        say=tqdm.write,
    )
    click.echo(summary(report))
    if is_url(model) and not keywords:
        click.echo("            --keywords tries more, for which stored chunks have to be embedded again")
    if report.folder is None:
        sys.exit(EXIT_NO)

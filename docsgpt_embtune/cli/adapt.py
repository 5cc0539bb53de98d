"""`embtune adapt`."""

from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from docsgpt_embtune.cli.command import EmbtuneCommand, end_with
from docsgpt_embtune.cli.options import cache_option, relevant_docs_option
from docsgpt_embtune.data.dataset import load_corpus, load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.training.config import SEED
from docsgpt_embtune.urls import is_url


@click.command(cls=EmbtuneCommand)
@click.option(
    "--model", required=True, help="What made the stored vectors: a folder, a hub name, 'bundled', or URL#MODEL."
)
@click.option("--train", "train_path", help="Questions to learn from, with their good chunks.")
@click.option("--val", "val_path", help="More of them: cross-validation chooses, so that none need be held out.")
@click.option("--corpus", help="The chunks, where the question files do not hold them; alone, for --keywords alone.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option("--seed", type=int, default=SEED, show_default=True)
@click.option(
    "--keywords", is_flag=True, help="Put keywords beside a server's vectors, too, where that gains: chunks embed anew."
)
@click.option("--keep-worse", is_flag=True, help="Write the folder even if cross-validation does not prefer it.")
@cache_option
@relevant_docs_option
def adapt(
    model: str,
    train_path: str | None,
    val_path: str | None,
    corpus: str | None,
    out: Path,
    seed: int,
    keywords: bool,
    keep_worse: bool,
    cache: Path | None,
    relevant_docs: RelevantDocs | None,
) -> None:
    """Tune the question's vector alone: nothing is re-embedded.

    It takes seconds, and stored chunks stay as they are, unless --keywords puts some beside theirs.
    URL#MODEL is a model behind a server, as EMBEDDINGS_BASE_URL and EMBEDDINGS_NAME have it: it gets the questions and
    the chunks, and the key in EMBEDDINGS_KEY, if any. Without --train its chunks get keywords, and nothing is learned.
    """
    from docsgpt_embtune.training.query_adapter import adapting, server_keywords

    given: dict[str, Any] = {"model": model, "cache": cache, "seed": seed, "keep_worse": keep_worse, "say": tqdm.write}
    if train_path is None:
        if not (keywords and corpus) or val_path:
            raise click.UsageError("give --train, or --corpus and --keywords for keywords alone")
        added = server_keywords.write_keywords_for_server(load_corpus(corpus), out, **given)
        end_with(server_keywords.summary(added), added.folder)
        return
    training = load_dataset(train_path, corpus=corpus, relevant_docs=relevant_docs)
    validation = load_dataset(val_path, corpus=corpus, relevant_docs=relevant_docs) if val_path else None
    report = adapting.adapt(training, validation, out, keywords=keywords, **given)
    hint = "\n            --keywords tries more, for which stored chunks have to be embedded again"
    end_with(adapting.summary(report) + (hint if is_url(model) and not keywords else ""), report.folder)

"""`embtune chunks`, `harvest` and `synthesize`: chunks and questions from where the users have them."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from docsgpt_embtune.cli.common import EmbtuneCommand
from docsgpt_embtune.sources.chunks import QDRANT_COLLECTION, Chunk


@click.command(cls=EmbtuneCommand)
@click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's (FAISS).")
@click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors; opened read-only.")
@click.option("--qdrant", metavar="URL", help="Qdrant's URL, or an embedded one's folder; QDRANT_API_KEY is its key.")
@click.option("--collection", default=QDRANT_COLLECTION, show_default=True, help="Qdrant's collection.")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), help="Markdown, text, rst and HTML to cut.")
@click.option(
    "--tokenizer",
    default="bundled",
    show_default=True,
    help="Counts the sizes of --documents: cl100k as DocsGPT does (needs tiktoken), or a model's: hub name, folder.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=1250, show_default=True, help="Of a cut chunk.")
@click.option("--min-tokens", type=click.IntRange(min=0), default=150, show_default=True, help="Smaller are merged.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The corpus file to write.")
@click.option("--document-of", type=click.Path(path_type=Path), help="Also write which document each chunk is of.")
def chunks(
    indexes: Path | None,
    pgvector: str | None,
    qdrant: str | None,
    collection: str,
    documents: Path | None,
    tokenizer: str,
    max_tokens: int,
    min_tokens: int,
    out: Path,
    document_of: Path | None,
) -> None:
    """Write the corpus: the chunks of a deployment's store, or of documents cut as its `recursive` strategy cuts."""
    from docsgpt_embtune.data.tokens import token_counter
    from docsgpt_embtune.sources import chunks as stores

    if min_tokens > max_tokens:
        raise click.UsageError(f"--min-tokens {min_tokens} is more than --max-tokens {max_tokens}")
    places = [place for place in (indexes, pgvector, qdrant, documents) if place is not None]
    if len(places) != 1:
        raise click.UsageError("say where the chunks are: one of --indexes, --pgvector, --qdrant or --documents")
    found: Iterable[Chunk]
    if indexes is not None:
        found = stores.faiss_chunks(indexes)
    elif pgvector is not None:
        found = stores.pgvector_chunks(pgvector)
    elif qdrant is not None:
        found = stores.qdrant_chunks(qdrant, collection=collection, api_key=os.environ.get("QDRANT_API_KEY"))
    else:
        assert documents is not None
        counter = token_counter(tokenizer)
        found = stores.document_chunks(documents, count_tokens=counter, max_tokens=max_tokens, min_tokens=min_tokens)
    saved = stores.save_chunks(found, out, document_of=document_of)
    click.echo(
        f"{out}: {saved.chunks:,} chunks of {saved.documents:,} documents, {saved.repeated:,} repeat an earlier one's "
        f"text, {saved.blank:,} blank ones left out"
    )

"""`embtune chunks`: write the corpus from a deployment's store or from documents."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.cli.options import refuse_unwritable
from docsgpt_embtune.data.chunking import MAX_TOKENS, MIN_TOKENS
from docsgpt_embtune.deployment.collection_store import DEFAULT_NAME
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources.chunks import Chunk
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.wording import counted

_APPROXIMATION = (
    "cut from documents, chunks only come near those that DocsGPT searches; read its store for these: --indexes, "
    "--pgvector, --qdrant or --milvus"
)


@click.command(cls=EmbtuneCommand)
@click.option("--indexes", type=click.Path(path_type=Path), help="DocsGPT's indexes folder, or one source's (FAISS).")
@click.option("--pgvector", metavar="URI", help="PostgreSQL with DocsGPT's vectors; opened read-only.")
@click.option("--qdrant", metavar="URL", help="Qdrant's URL, or an embedded one's folder; QDRANT_API_KEY is its key.")
@click.option("--milvus", metavar="URI", help="Milvus' URI, or a Milvus Lite's file; MILVUS_TOKEN is its token.")
@click.option("--collection", default=DEFAULT_NAME, show_default=True, help="Qdrant's or Milvus' collection.")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), help="Markdown, text, rst and HTML to cut.")
@click.option(
    "--tokenizer",
    default="bundled",
    show_default=True,
    help="Counts the sizes of --documents: cl100k as DocsGPT does (needs tiktoken), or a model's: hub name, folder.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=MAX_TOKENS, show_default=True, help="Longest chunk.")
@click.option(
    "--min-tokens", type=click.IntRange(min=0), default=MIN_TOKENS, show_default=True, help="Merge shorter ones."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The corpus file to write.")
@click.option("--document-of", type=click.Path(path_type=Path), help="Also write which document each chunk is of.")
def chunks(
    indexes: Path | None,
    pgvector: str | None,
    qdrant: str | None,
    milvus: str | None,
    collection: str,
    documents: Path | None,
    tokenizer: str,
    max_tokens: int,
    min_tokens: int,
    out: Path,
    document_of: Path | None,
) -> None:
    """Write the corpus, from a deployment's store or from documents.

    A store (--indexes, --pgvector, --qdrant, --milvus) has the chunks that are really searched. --documents only comes
    near them. It cuts as DocsGPT's `recursive` strategy does; the default there is `classic_chunk`. DocsGPT also drops
    link targets, HTML tags, and roles and directives of rst, and makes each heading of Markdown a document of its own.
    """
    from docsgpt_embtune.data.tokens import token_counter
    from docsgpt_embtune.sources import chunks as stores

    if min_tokens > max_tokens:
        raise click.UsageError(f"--min-tokens {min_tokens} is more than --max-tokens {max_tokens}")
    places = [place for place in (indexes, pgvector, qdrant, milvus, documents) if place is not None]
    if len(places) != 1:
        raise click.UsageError("say where they are: one of --indexes, --pgvector, --qdrant, --milvus or --documents")
    refuse_unwritable(out, document_of, read=stores.files_read(indexes, documents))
    found: Iterable[Chunk]
    if indexes is not None:
        found, source = stores.faiss_chunks(indexes), str(indexes)
    elif pgvector is not None:
        found, source = stores.pgvector_chunks(pgvector), f"PostgreSQL {_shown(pgvector)}".strip()
    elif qdrant is not None:
        found = stores.qdrant_chunks(qdrant, collection=collection, api_key=os.environ.get("QDRANT_API_KEY"))
        source = f"Qdrant {without_credentials(qdrant)}, {collection!r}"
    elif milvus is not None:
        found = stores.milvus_chunks(milvus, collection=collection, token=os.environ.get("MILVUS_TOKEN"))
        source = f"Milvus {without_credentials(milvus)}, {collection!r}"
    else:
        assert documents is not None
        counter = token_counter(tokenizer)
        found = stores.document_chunks(documents, count_tokens=counter, max_tokens=max_tokens, min_tokens=min_tokens)
        source = str(documents)
        click.echo(_APPROXIMATION)
    bar = Bar(found, desc="reading", unit=" chunks")
    saved = stores.save_chunks(bar, out, document_of=document_of, source=source)
    first_blank = f" (the first: {saved.blank[0]!r})" if saved.blank else ""
    click.echo(
        f"{out}: {counted(saved.chunks, 'chunk')} of {counted(saved.documents, 'document')}; kept with the text of an "
        f"earlier one: {saved.repeated:,}; left out as blank: {len(saved.blank):,}{first_blank}"
    )
    if documents is not None:
        _say_what_was_not_read(documents)


def _shown(postgres: str) -> str:
    # A connection string of libpq's other form, host=… password=…, is not shown: its password cannot be cut out safely.
    return without_credentials(postgres) if postgres.startswith("postgres") else ""


def _say_what_was_not_read(documents: Path) -> None:
    from docsgpt_embtune.sources.documents import unread_suffixes

    unread = unread_suffixes(documents)
    if unread:
        kinds = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in unread.items())
        click.echo(
            f"{counted(sum(unread.values()), 'file')} of {documents} not read here: {kinds}; for documents among them, "
            "upload them to DocsGPT and take the chunks from its store"
        )

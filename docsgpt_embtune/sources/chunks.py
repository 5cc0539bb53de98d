"""The chunks that a deployment searches: read from its stores, or cut from its documents much as DocsGPT cuts them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.chunking import MAX_TOKENS, MIN_TOKENS, chunk_text
from docsgpt_embtune.deployment.collection_store import DEFAULT_NAME, Collections
from docsgpt_embtune.deployment.faiss_folder import INDEX_FILES, find_index_folders, read_sidecar
from docsgpt_embtune.deployment.milvus_collections import open_milvus
from docsgpt_embtune.deployment.qdrant_collections import open_qdrant
from docsgpt_embtune.deployment.stores import as_deployment_error
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import DatasetError, DeploymentError
from docsgpt_embtune.files import write_text_atomically
from docsgpt_embtune.sources.documents import find_documents, read_document
from docsgpt_embtune.sources.read_only_postgres import read_only_database
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.wording import counted

PGVECTOR_TABLE = "documents"


@dataclass(frozen=True)
class Chunk:
    """One chunk as a search would return it.

    Attributes:
        doc_id: Its id in the store, with the source's id in front if the store only numbers its chunks.
        text: The text that is embedded.
        document: The document that it was cut from; questions about one document belong in one split.
    """

    doc_id: str
    text: str
    document: str


def files_read(indexes: Path | None, documents: Path | None) -> list[Path]:
    """List the files that chunks are read from: the documents, or the files of indexes, which may not all exist.

    Raises:
        DeploymentError: If there is no index.
        DatasetError: If there is no document.
    """
    if documents is not None:
        return find_documents(documents)
    folders = find_index_folders(indexes) if indexes is not None else []
    return [folder / name for folder in folders for name in INDEX_FILES]


def faiss_chunks(path: Path) -> Iterator[Chunk]:
    """Read the chunks of an index folder, or of all of them below DocsGPT's `indexes`, in row order.

    Raises:
        DeploymentError: If there is no index, or one cannot be read.
    """
    for folder in find_index_folders(path):
        sidecar = read_sidecar(folder)
        for doc_id in sidecar.rows:
            yield Chunk(doc_id, sidecar.texts[doc_id], _document(folder.name, sidecar.metadata[doc_id]))


def pgvector_chunks(uri: str) -> Iterator[Chunk]:
    """Stream the chunks of DocsGPT's pgvector table, over a read-only connection.

    Raises:
        DeploymentError: If the database cannot be reached, or has no such table.
    """
    with read_only_database(uri) as database:
        if not {"text", "metadata", "source_id"} <= database.columns(PGVECTOR_TABLE):
            raise DeploymentError(
                f"PostgreSQL database {database.name!r} has no table {PGVECTOR_TABLE!r} of DocsGPT's; give the URI in "
                "PGVECTOR_CONNECTION_STRING, or POSTGRES_URI if that is not set"
            )
        query = "SELECT id, text, metadata, source_id FROM documents ORDER BY id"
        for row_id, text, metadata, source_id in database.rows(query):
            yield Chunk(f"{source_id}/{row_id}", text, _document(source_id, metadata or {}))


def qdrant_chunks(location: str, *, collection: str = DEFAULT_NAME, api_key: str | None = None) -> Iterator[Chunk]:
    """Stream the chunks of DocsGPT's Qdrant collection, without their vectors.

    Args:
        location: The server's URL, or the folder of an embedded one (QDRANT_URL or QDRANT_PATH of the host).
        collection: QDRANT_COLLECTION_NAME of the host.
        api_key: QDRANT_API_KEY of the host.

    Raises:
        DeploymentError: If it cannot be reached, or has no such collection.
    """
    with open_qdrant(location, api_key) as collections:
        yield from _chunks_of(collections, collection, location)


def milvus_chunks(uri: str, *, collection: str = DEFAULT_NAME, token: str | None = None) -> Iterator[Chunk]:
    """Stream the chunks of DocsGPT's Milvus collection, without their vectors.

    Args:
        uri: The server's URI, or the file of Milvus Lite (MILVUS_URI of the host).
        collection: MILVUS_COLLECTION_NAME of the host.
        token: MILVUS_TOKEN of the host.

    Raises:
        DeploymentError: If it cannot be reached, or has no such collection.
    """
    with open_milvus(uri, token) as collections:
        yield from _chunks_of(collections, collection, uri)


def _chunks_of(collections: Collections, name: str, location: str) -> Iterator[Chunk]:
    remedy = "check its address, and that the key may read"
    with as_deployment_error(collections.label, collections.errors, remedy, address=location):
        if name not in collections.names() and not collections.exists(name):
            raise DeploymentError(
                f"{collections.label} {without_credentials(location)}: no collection {name!r} (it has "
                f"{collections.names()[:5]}); give --collection"
            )
        for entry in collections.entries(name):
            source_id = str(entry.metadata.get("source_id", ""))
            yield Chunk(str(entry.doc_id), entry.text, _document(source_id, entry.metadata))


def document_chunks(
    folder: Path, *, count_tokens: Callable[[str], int], max_tokens: int = MAX_TOKENS, min_tokens: int = MIN_TOKENS
) -> Iterator[Chunk]:
    """Cut the documents of a folder much as DocsGPT's `recursive` strategy does.

    What DocsGPT stores differs: its parsers drop link targets, tags, roles and directives, and make each heading of
    Markdown a document of its own; its default strategy is `classic_chunk`.

    Args:
        folder: Searched with its sub-folders for Markdown, text, reStructuredText and HTML.
        count_tokens: Number of tokens in a text; DocsGPT counts in cl100k.
        max_tokens: Upper bound of a chunk, in tokens.
        min_tokens: Size in tokens below which neighbouring pieces are merged.

    Yields:
        The chunks of each document; one without text for a document that has none.

    Raises:
        DatasetError: If the folder has no such document, or one cannot be read.
    """
    for path in find_documents(folder):
        name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
        pieces = chunk_text(
            read_document(path), count_tokens=count_tokens, max_tokens=max_tokens, min_tokens=min_tokens
        )
        for number, piece in enumerate(pieces):
            yield Chunk(f"{name}#{number}", piece, name)
        if not pieces:
            yield Chunk(name, "", name)  # which is counted, and not written


@dataclass(frozen=True)
class SavedChunks:
    """Counts of what `save_chunks` wrote.

    Attributes:
        chunks: Chunks written.
        documents: Documents that they come from.
        blank: Ids of chunks and documents without text, left out as they answer no question.
        repeated: Chunks with the text of an earlier one; kept, as the host finds them, too.
    """

    chunks: int
    documents: int
    blank: tuple[str, ...]
    repeated: int


def save_chunks(
    chunks: Iterable[Chunk], out: Path, *, document_of: Path | None = None, source: str = "the source"
) -> SavedChunks:
    """Write the corpus file {doc_id: text} and, if wanted, a file with the document of each chunk.

    Args:
        chunks: Chunks with distinct ids.
        out: The corpus file.
        document_of: File for {doc_id: document}, if wanted; needed to keep documents in one split.
        source: What was read, for messages.

    Raises:
        DatasetError: If there is no chunk with text, or two share an id.
    """
    corpus: dict[str, str] = {}
    documents: dict[str, str] = {}
    blank: list[str] = []
    for chunk in chunks:
        doc_id = encodable(chunk.doc_id)  # a file's name may hold bytes that are not UTF-8
        if not chunk.text.strip():
            blank.append(doc_id)
            continue
        if doc_id in corpus:
            raise DatasetError(f"chunk id {doc_id!r} stands twice; read one source at a time")
        corpus[doc_id] = encodable(chunk.text)  # as the model gets it: UTF-8 cannot hold lone surrogates
        documents[doc_id] = encodable(chunk.document)
    if not corpus:
        raise DatasetError(
            f"{source}: no chunk with text in it ({counted(len(blank), 'blank one')}); nothing was written"
        )
    write_text_atomically(out, json.dumps(corpus, ensure_ascii=False, indent=1) + "\n")
    if document_of is not None:
        write_text_atomically(document_of, json.dumps(documents, ensure_ascii=False, indent=1) + "\n")
    repeated = len(corpus) - len(Counter(corpus.values()))
    return SavedChunks(len(corpus), len(set(documents.values())), tuple(blank), repeated)


def _document(source_id: str, metadata: Any) -> str:
    # DocsGPT's metadata: `source` is the path below the upload; older parsers wrote only a file name or a title.
    name = next((str(metadata[key]) for key in ("source", "filename", "file_name", "title") if metadata.get(key)), "")
    return f"{source_id}/{name}" if name else source_id

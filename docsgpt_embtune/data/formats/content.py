"""What a file says, whatever its layout, before anybody has asked whether it holds together."""

import hashlib
import html
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from docsgpt_embtune.data.offences import refuse

_SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class DatasetContent:
    """Questions, chunks and judgments as they were read.

    Ids may point nowhere and texts may be blank: `load_dataset` refuses such content, `embtune prepare` mends it.

    Attributes:
        queries: query_id -> text.
        corpus: doc_id -> text.
        relevant_docs: query_id -> ids of the documents that answer.
        irrelevant_docs: query_id -> ids of documents that look right and are not; absent where none is known.
        sources: The files it was read from, for messages and for the manifest.
        dates: query_id -> when it was asked, ISO 8601; absent where not known.
        documents: doc_id -> the document that the chunk was cut from; absent where not known.
        more_documents: doc_id -> the others that hold the same text; absent where there is none.
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    relevant_docs: Mapping[str, tuple[str, ...]]
    irrelevant_docs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    dates: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    more_documents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class RowChunk(NamedTuple):
    """A chunk in a row."""

    doc_id: str
    text: str


class Row(NamedTuple):
    """One question with chunks, as the formats hold it that have a row for each question or pair."""

    query_id: str
    query: str
    good: tuple[RowChunk, ...]
    bad: tuple[RowChunk, ...] = ()
    date: str = ""
    document: str = ""  # that the good chunks were cut from


def text_fault(value: object) -> str | None:
    """Say why a value cannot be a text, if so; a blank one is a text still."""
    if not isinstance(value, str):
        return "text is not a string"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text holds half a character (a lone surrogate)"
    return None


def digits_as_text(value: object) -> object:
    """Write a whole number as its digits: spreadsheets and JSON turn ids such as 911 into numbers, Excel into 911.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def text_id(text: str) -> str:
    """Make an id of a text that has none: 16 hex digits, so that a text has one id in whatever row it stands."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named_with_text(own_id: str, text: str) -> str:
    """Name a text by its id, and by how it begins where the id is made of it and tells nothing."""
    return own_id if own_id != text_id(text) else f"{own_id}' = '{cut(text)}"


def cut(text: str) -> str:
    """Make one short line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def chunks(texts: Iterable[str]) -> tuple[RowChunk, ...]:
    """Give texts that have no ids their ids."""
    return tuple(RowChunk(text_id(text), text) for text in texts)


def collect(path: Path, rows: Iterable[Row]) -> DatasetContent:
    """Join rows by question and by chunk.

    Raises:
        DatasetError: If an id stands for two texts.
    """
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    good: dict[str, dict[str, None]] = {}  # ordered sets
    bad: dict[str, dict[str, None]] = {}
    dates: dict[str, str] = {}
    documents: list[tuple[str, str]] = []
    two_texts: dict[str, list[str]] = {"question": [], "chunk": []}
    for row in rows:
        if queries.setdefault(row.query_id, row.query) != row.query:
            two_texts["question"].append(row.query_id)
        for chunk in (*row.good, *row.bad):
            if corpus.setdefault(chunk.doc_id, chunk.text) != chunk.text:
                two_texts["chunk"].append(chunk.doc_id)
        good.setdefault(row.query_id, {}).update(dict.fromkeys(chunk.doc_id for chunk in row.good))
        bad.setdefault(row.query_id, {}).update(dict.fromkeys(chunk.doc_id for chunk in row.bad))
        if row.date:
            dates[row.query_id] = max(dates.get(row.query_id, ""), row.date)
        if row.document:
            documents.extend((chunk.doc_id, row.document) for chunk in row.good)
    for what, offenders in two_texts.items():
        refuse(path, f"one {what} id stands for two texts", offenders, len(queries))
    return DatasetContent(
        queries,
        corpus,
        {query_id: tuple(ids) for query_id, ids in good.items()},
        {query_id: tuple(ids) for query_id, ids in bad.items() if ids},
        (str(path),),
        dates,
        *_first_and_others(documents),
    )


def _first_and_others(documents: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the first document of each chunk, and the others of those that several hold."""
    of_chunk: dict[str, dict[str, None]] = {}  # ordered sets
    for doc_id, document in documents:
        of_chunk.setdefault(doc_id, {})[document] = None
    each = {doc_id: tuple(found) for doc_id, found in of_chunk.items()}
    return (
        {doc_id: found[0] for doc_id, found in each.items()},
        {doc_id: found[1:] for doc_id, found in each.items() if len(found) > 1},
    )


def placed_in(
    content: DatasetContent, corpus: Mapping[str, str], path: Path, *, keep_unknown: bool = False
) -> DatasetContent:
    """Judge the chunks of a corpus, which rows name by text, or by id where the corpus has no such text.

    A spreadsheet or a web page that a text went through changes its spacing and its HTML entities, and no more is
    asked of it than to be the same but for these.

    Args:
        content: The rows.
        corpus: What is searched.
        path: Its file, for messages.
        keep_unknown: Whether what names no chunk stays, as the id of none, for `embtune prepare` to tell and drop.

    Raises:
        DatasetError: If a text is neither in the corpus nor an id of it.
    """
    own = _ids_in(corpus, content.corpus)
    lost = {doc_id: text for doc_id, text in content.corpus.items() if doc_id not in own}
    if keep_unknown:
        own |= lost
    else:
        what = f"names chunks that {path} does not have, by text or id (embtune prepare --fix --out FOLDER drops them)"
        refuse(Path(content.sources[0]), what, map(cut, lost.values()), len(content.corpus))

    def renamed(judgments: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {q: tuple(dict.fromkeys(own[doc_id] for doc_id in ids)) for q, ids in judgments.items()}

    documents, more_documents = _first_and_others((own[d], document) for d, document in documents_of(content))
    return replace(
        content,
        corpus=corpus,
        relevant_docs=renamed(content.relevant_docs),
        irrelevant_docs=renamed(content.irrelevant_docs),
        documents=documents,
        more_documents=more_documents,
        sources=(*content.sources, str(path)),
    )


def _ids_in(corpus: Mapping[str, str], named: Mapping[str, str]) -> dict[str, str]:
    """Return the id in a corpus of each text that names a chunk of it."""
    backwards = list(corpus.items())[::-1]  # of several copies the first counts
    id_of_text = {text: doc_id for doc_id, text in backwards}
    own = {name: id_of_text.get(text, text) for name, text in named.items() if text in id_of_text or text in corpus}
    if len(own) < len(named):
        id_of_reading = {_as_read(text): doc_id for doc_id, text in backwards}
        readings = {name: _as_read(text) for name, text in named.items() if name not in own}
        own |= {name: id_of_reading[reading] for name, reading in readings.items() if reading in id_of_reading}
        own |= {name: reading for name, reading in readings.items() if name not in own and reading in corpus}
    return own


def _as_read(text: str) -> str:
    """Make one line of a text, its HTML entities and its accents written in one way."""
    return " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())


def documents_of(content: DatasetContent) -> Iterator[tuple[str, str]]:
    """Yield each chunk beside each document that holds it."""
    yield from content.documents.items()
    yield from ((doc_id, document) for doc_id, others in content.more_documents.items() for document in others)


def rows_of(content: DatasetContent) -> Iterator[Row]:
    """Lay content out as one row for each question; chunks that no question names have no place in it."""
    for query_id, query in content.queries.items():
        good = content.relevant_docs[query_id]
        documents = {content.documents.get(doc_id, "") for doc_id in good}  # a row has room for one
        yield Row(
            query_id,
            query,
            tuple(RowChunk(doc_id, content.corpus[doc_id]) for doc_id in good),
            tuple(RowChunk(doc_id, content.corpus[doc_id]) for doc_id in content.irrelevant_docs.get(query_id, ())),
            content.dates.get(query_id, ""),
            documents.pop() if len(documents) == 1 else "",
        )

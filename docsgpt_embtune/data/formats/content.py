"""The content of a dataset file of any format, not yet checked for consistency."""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from docsgpt_embtune.data.offences import refuse

_DECIMAL_ID = re.compile(r"(\d+)\.0")
_SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class DatasetContent:
    """Questions, chunks and judgments as they were read.

    Ids may be unknown and texts blank: `load_dataset` refuses such content, `embtune prepare` repairs it.

    Attributes:
        queries: query_id -> text.
        corpus: doc_id -> text.
        relevant_docs: query_id -> ids of the documents that answer.
        irrelevant_docs: query_id -> ids of documents that look relevant and are not; absent where none is known.
        sources: The files it was read from, for messages and for the manifest.
        dates: query_id -> when it was asked, ISO 8601; absent where not known.
        documents: doc_id -> the document that the chunk was cut from; absent where not known.
        more_documents: doc_id -> further documents that hold the same chunk; absent where there are none.
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
    """One question with its chunks, for formats with one row per question or per pair."""

    query_id: str
    query: str
    good: tuple[RowChunk, ...]
    bad: tuple[RowChunk, ...] = ()
    date: str = ""
    document: str = ""  # the one that the good chunks were cut from


def text_fault(value: object) -> str | None:
    """Return why a value is not a valid text, or None if it is one; blank text is valid."""
    if not isinstance(value, str):
        return "text is not a string"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text holds half a character (a lone surrogate)"
    return None


def digits_as_text(value: object) -> object:
    """Turn a whole number into text: spreadsheets and JSON hold ids such as 911 as numbers, Excel as 911.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def text_id(text: str) -> str:
    """Derive an id from a text that has none: 16 hex digits, the same in every row."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named_with_text(own_id: str, text: str) -> str:
    """Name a text by its id; if that is only a hash of the text, add how the text begins."""
    return own_id if own_id != text_id(text) else f"{own_id}' = '{cut(text)}"


def cut(text: str) -> str:
    """Shorten a text to one line, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def chunks(texts: Iterable[str]) -> tuple[RowChunk, ...]:
    """Make chunks of texts, with ids derived from the texts."""
    return tuple(RowChunk(text_id(text), text) for text in texts)


def collect(path: Path, rows: Iterable[Row]) -> DatasetContent:
    """Merge rows by question id and chunk id.

    Raises:
        DatasetError: If one id has two texts.
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
    """Return each chunk's first document, and the others of chunks that are in several."""
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
    """Map the chunks that rows name to those of a corpus: by text, or by id where no text matches.

    Spreadsheets and web pages change the spacing of a text, its HTML entities and the encoding of accents, so texts
    that differ only in these match, too.

    Args:
        content: The rows.
        corpus: The chunks to search: doc_id -> text.
        path: The corpus file, for messages.
        keep_unknown: Whether to keep what names no chunk, as an unknown id, for `embtune prepare` to report and drop.

    Raises:
        DatasetError: If a text is neither in the corpus nor one of its ids, unless `keep_unknown`.
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
    """Return key -> doc_id for each text in `named` that is the text or the id of a chunk of the corpus."""
    backwards = list(corpus.items())[::-1]  # reversed, so that the first of several copies counts
    id_of_text = {text: doc_id for doc_id, text in backwards}
    own = {name: id_of_text.get(text, text) for name, text in named.items() if text in id_of_text or text in corpus}
    if len(own) < len(named):
        id_of_reading = {_as_read(text): doc_id for doc_id, text in backwards}
        readings = {name: _as_read(text) for name, text in named.items() if name not in own}
        own |= {name: id_of_reading[reading] for name, reading in readings.items() if reading in id_of_reading}
        # Of a column with an empty cell, pandas makes decimal numbers, and of the id 12 the text 12.0.
        decimal = {name: found[1] for name, reading in readings.items() if (found := _DECIMAL_ID.fullmatch(reading))}
        for ids in (readings, decimal):
            own |= {name: doc_id for name, doc_id in ids.items() if name not in own and doc_id in corpus}
    return own


def _as_read(text: str) -> str:
    """Normalise a text's spacing, HTML entities and accents (Unicode NFC)."""
    return " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())


def documents_of(content: DatasetContent) -> Iterator[tuple[str, str]]:
    """Yield (doc_id, document) for each document of each chunk."""
    yield from content.documents.items()
    yield from ((doc_id, document) for doc_id, others in content.more_documents.items() for document in others)


def rows_of(content: DatasetContent) -> Iterator[Row]:
    """Yield one row per question; chunks that no question names are left out."""
    for query_id, query in content.queries.items():
        good = content.relevant_docs[query_id]
        documents = {content.documents.get(doc_id, "") for doc_id in good}  # a row holds only one
        yield Row(
            query_id,
            query,
            tuple(RowChunk(doc_id, content.corpus[doc_id]) for doc_id in good),
            tuple(RowChunk(doc_id, content.corpus[doc_id]) for doc_id in content.irrelevant_docs.get(query_id, ())),
            content.dates.get(query_id, ""),
            documents.pop() if len(documents) == 1 else "",
        )

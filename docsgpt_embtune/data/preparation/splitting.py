"""Split the questions of a store into train, validation and test, so that no two splits share an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from docsgpt_embtune.data.dataset import RetrievalDataset, checked, save_dataset
from docsgpt_embtune.data.formats.content import DatasetContent, Row, RowChunk
from docsgpt_embtune.data.formats.records import write_json_lines
from docsgpt_embtune.data.formats.table import write_lines
from docsgpt_embtune.data.preparation.statements import with_a_bar
from docsgpt_embtune.data.preparation.store import Store
from docsgpt_embtune.data.split import SPLITS, Numbers, connected_groups, draw_groups
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.progress import Bar

LEFT_OUT = "left out"
_IN_MEMORY = 500_000  # questions and chunks; so many are written as JSON with a corpus, more are streamed as JSONL


@dataclass(frozen=True)
class SplitReport:
    """How the questions were split.

    Attributes:
        sizes: Split -> number of questions.
        largest_group: Questions in the largest group that has to stay together.
        left_out: Questions in no split, because a newer one shares their answer.
    """

    sizes: dict[str, int]
    largest_group: int
    left_out: int = 0


def split_questions(store: Store, shares: Sequence[float], *, seed: int, by_date: bool, near: bool) -> SplitReport:
    """Assign each question to a split, in the table `splits` (query_id, split).

    Questions stay together if they share a good chunk or a document of good chunks, or if their texts or good chunks
    are copies under two ids; with `near`, also if these are near-duplicates.

    Args:
        store: Questions, chunks and judgments.
        shares: Shares of the questions for train, validation and test.
        seed: Random seed.
        by_date: Whether the newest questions are the test split and the oldest the train split. A question that has to
            stay together with one of a later split is left out, as its answer would leak.
        near: Whether the tables `near_questions` and `near_chunks` exist.

    Raises:
        DatasetError: If a date is needed and is missing or invalid, or a split would be empty.
    """
    group_of = _groups(store, near)  # (Q,)
    sizes = np.bincount(group_of)
    if by_date:
        split_of = _newest_last(store, group_of, shares)
    else:
        wanted = [round(share * len(group_of)) for share in shares[:0:-1]]  # test, validation
        drawn = draw_groups(sizes, wanted, seed)
        split_of_group = np.zeros(len(sizes), dtype=np.int8)
        for split, groups in zip((2, 1), drawn, strict=True):
            split_of_group[groups] = split
        split_of = split_of_group[group_of]
    # Joined by number, as ten million ids in Python would take gigabytes.
    store.put("split_of_number", {"number": np.arange(len(split_of)), "place": split_of}, replace=True)
    store.query(
        f"CREATE OR REPLACE TABLE splits AS SELECT query_id, {[*SPLITS, LEFT_OUT]}[place + 1] AS split "
        "FROM numbered_questions JOIN split_of_number USING (number)",
        label="splitting",
    )
    counts = {split: int((split_of == number).sum()) for number, split in enumerate(SPLITS)}
    _refuse_empty(store, counts, shares, int(sizes.max()))
    return SplitReport(counts, int(sizes.max()), int((split_of == len(SPLITS)).sum()))


def write_splits(store: Store, folder: Path) -> list[Path]:
    """Write each split that has questions into an existing folder.

    Returns:
        The files: explicit JSON and `corpus.json`; or, if these would not fit into memory, JSONL of rows, and
        `corpus.jsonl` if there are chunks that no row names.
    """
    held = store.number("SELECT (SELECT count(*) FROM questions) + (SELECT count(*) FROM chunks)")
    sizes = dict(store.query("SELECT split, count(*) FROM splits GROUP BY split"))
    written = [split for split in SPLITS if split in sizes]
    if held > _IN_MEMORY:
        paths = [folder / f"{split}.jsonl" for split in written]
        for split, path in zip(written, paths, strict=True):
            write_lines(Bar(_rows(store, split), f"writing {split}", sizes[split], unit_scale=True), path)
        return [*paths, _write_corpus(store, folder)] if LEFT_OUT in sizes or _has_unjudged(store) else paths
    paths = [folder / f"{split}.json" for split in written]
    for split, path in zip(written, paths, strict=True):
        save_dataset(_dataset(store, split), path, corpus=folder / "corpus.json")
    return [*paths, folder / "corpus.json"]


def _has_unjudged(store: Store) -> bool:
    found = "SELECT EXISTS (SELECT doc_id FROM chunks ANTI JOIN judgments USING (doc_id))"
    return bool(store.query(found, label="looking for chunks that nobody judged")[0][0])


def _write_corpus(store: Store, folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    chunks = store.stream("SELECT doc_id, text FROM chunks ORDER BY position, doc_id", label="sorting chunks")
    records = ({"id": doc_id, "text": text} for doc_id, text in chunks)
    total = store.number("SELECT count(*) FROM chunks")
    write_json_lines(path, Bar(records, "writing the corpus", total, unit_scale=True))
    return path


def _groups(store: Store, near: bool) -> Numbers:
    linking = "SELECT doc_id FROM judgments WHERE good"
    if near:
        linking += " UNION SELECT unnest([one, two]) FROM near_chunks"
    for table, id_name, members in (
        ("questions", "query_id", "questions"),
        ("chunks", "doc_id", f"chunks SEMI JOIN ({linking}) USING (doc_id)"),
    ):
        store.query(
            f"CREATE OR REPLACE TABLE numbered_{table} AS "
            f"SELECT {id_name}, (row_number() OVER (ORDER BY position, {id_name}) - 1)::INTEGER AS number "
            f"FROM {members}",
            label=f"numbering {table}",
        )
    questions, chunks, documents = (
        store.number(f"SELECT count({what}) FROM {table}")
        for what, table in (("*", "numbered_questions"), ("*", "numbered_chunks"), ("DISTINCT document", _DOCUMENTS))
    )
    edges = [
        _edges(store, f"q.number, c.number + {questions} FROM judgments j {_QUESTION} {_CHUNK} WHERE good"),
        _edges(
            store,
            f"c.number + {questions}, d.number + {questions + chunks} FROM {_DOCUMENTS} {_CHUNK} JOIN ("
            "SELECT document, (row_number() OVER (ORDER BY document) - 1)::INTEGER AS number "
            f"FROM (SELECT DISTINCT document FROM {_DOCUMENTS})) d USING (document)",
        ),
    ]
    for table, id_name, start in (("questions", "query_id", 0), ("chunks", "doc_id", questions)):
        edges.append(_edges(store, _copies(table, id_name, start)))
        if near:
            edges.append(
                _edges(
                    store,
                    f"a.number + {start}, b.number + {start} FROM near_{table} JOIN numbered_{table} a "
                    f"ON a.{id_name} = one JOIN numbered_{table} b ON b.{id_name} = two",
                )
            )
    return connected_groups(questions + chunks + documents, edges)[:questions]  # the first nodes are the questions


def _copies(table: str, id_name: str, start: int) -> str:
    return f"""
        number + {start}, first + {start} FROM (
            SELECT number, min(number) OVER (PARTITION BY key) AS first
            FROM {table} JOIN numbered_{table} USING ({id_name})
        ) WHERE number <> first"""


_DOCUMENTS = """(
    SELECT doc_id, document FROM chunks WHERE document <> '' UNION ALL SELECT doc_id, document FROM more_documents)"""
_QUESTION = "JOIN numbered_questions q USING (query_id)"
_CHUNK = "JOIN numbered_chunks c USING (doc_id)"


def _edges(store: Store, sql: str) -> tuple[Numbers, Numbers]:
    connection = store.connection
    found = with_a_bar(connection, "grouping questions", lambda: connection.sql(f"SELECT {sql}").to_arrow_table())
    start, end = (found.column(place).to_numpy().astype(np.int32) for place in (0, 1))
    return start, end


def _newest_last(
    store: Store, group_of: Numbers, shares: Sequence[float]
) -> "np.ndarray[tuple[int], np.dtype[np.int8]]":
    undated = store.query("SELECT min(query_id), count(*) FROM questions WHERE moment(date) IS NULL")[0]
    if undated[1]:
        raise DatasetError(
            f"{store.source}: no date (ISO 8601) for '{undated[0]}' (first of {undated[1]}, of {len(group_of)}); "
            "a split by date needs one for each question"
        )
    ordered = store.connection.sql(
        "SELECT number FROM numbered_questions JOIN questions USING (query_id) ORDER BY moment(date), number"
    )
    oldest_first = ordered.to_arrow_table().column("number").to_numpy()
    ends = np.round(np.cumsum(shares)[:-1] * len(group_of)).astype(int)
    split_of = np.empty(len(group_of), dtype=np.int8)
    for split, members in enumerate(np.split(oldest_first, ends)):
        split_of[members] = split
    newest = np.zeros(int(group_of.max()) + 1, dtype=np.int8)
    np.maximum.at(newest, group_of, split_of)
    return np.where(split_of < newest[group_of], np.int8(len(SPLITS)), split_of)


def _refuse_empty(store: Store, counts: dict[str, int], shares: Sequence[float], largest: int) -> None:
    empty = [split for split, share in zip(SPLITS, shares, strict=True) if share and not counts[split]]
    if empty:
        total = sum(counts.values())
        raise DatasetError(
            f"{store.source}: no question is left for {empty[0]}: {largest} of {total} hang together by their chunks "
            "and documents; give more questions, or other shares with --split"
        )


def _dataset(store: Store, split: str) -> RetrievalDataset:
    queries = {}
    good: dict[str, list[str]] = {}
    bad: dict[str, list[str]] = {}
    dates: dict[str, str] = {}
    for query_id, text, date in store.query(
        "SELECT query_id, text, date FROM questions JOIN splits USING (query_id) WHERE split = ? ORDER BY position",
        [split],
    ):
        queries[query_id] = text
        dates |= {query_id: date} if date else {}
    for query_id, doc_id, is_good in store.query(
        "SELECT query_id, doc_id, good FROM judgments JOIN splits USING (query_id) WHERE split = ? ORDER BY ALL",
        [split],
    ):
        (good if is_good else bad).setdefault(query_id, []).append(doc_id)
    chunks = store.query("SELECT doc_id, text, document FROM chunks ORDER BY position, doc_id")
    return checked(
        DatasetContent(
            queries,
            {doc_id: text for doc_id, text, _ in chunks},
            {query_id: tuple(ids) for query_id, ids in good.items()},
            {query_id: tuple(ids) for query_id, ids in bad.items()},
            (str(store.source),),
            dates,
            {doc_id: document for doc_id, _, document in chunks if document},
        )
    )


def _rows(store: Store, split: str) -> Iterator[Row]:
    ordered = store.stream(
        f"""
        SELECT q.query_id, q.text, q.date, c.doc_id, c.text, c.document, j.good
        FROM judgments j JOIN questions q USING (query_id) JOIN chunks c USING (doc_id) JOIN splits USING (query_id)
        WHERE split = '{split}' ORDER BY q.position, q.query_id, j.position""",
        label=f"sorting {split}",
    )
    return _grouped(ordered)


def _grouped(ordered: Iterator[tuple[Any, ...]]) -> Iterator[Row]:
    for (query_id, query, date), judged in groupby(ordered, key=itemgetter(0, 1, 2)):
        marked: dict[bool, list[RowChunk]] = {True: [], False: []}
        document = ""
        for *_, doc_id, text, chunk_document, good in judged:
            marked[good].append(RowChunk(doc_id, text))
            document = document or (chunk_document if good else "")
        yield Row(query_id, query, tuple(marked[True]), tuple(marked[False]), date, document)

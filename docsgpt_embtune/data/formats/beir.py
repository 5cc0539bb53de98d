"""BEIR's folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from docsgpt_embtune.data.formats.content import DatasetContent
from docsgpt_embtune.data.formats.format import Format
from docsgpt_embtune.data.formats.options import ReadOptions
from docsgpt_embtune.data.formats.records import write_json_lines
from docsgpt_embtune.data.formats.source import Source
from docsgpt_embtune.data.formats.texts import read_corpus, read_text_records
from docsgpt_embtune.data.offences import Offences, refuse
from docsgpt_embtune.data.text_file import UTF8, reading
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import folder_written_whole

QRELS_FIELDS = ("query-id", "corpus-id", "score")
WRITTEN_SPLIT = "test"  # what BEIR's own loader reads by default


def read(source: Source, options: ReadOptions) -> DatasetContent:
    """Read the folder's only split, or the split of a given qrels file.

    A score above 0 marks a good chunk. Any other marks a bad one: somebody judged it and found it irrelevant.
    """
    qrels = _qrels(source.path)
    corpus_path = options.corpus or _corpus_beside(qrels)
    queries_path = _queries_beside(qrels)
    good, bad = _judgments(qrels)
    queries = read_text_records(Source(queries_path))
    judged = dict.fromkeys((*good, *bad))
    refuse(qrels, f"question is missing from {queries_path.name}", (q for q in judged if q not in queries), len(judged))
    return DatasetContent(
        queries={query_id: queries[query_id] for query_id in queries if query_id in judged},
        corpus=read_corpus(corpus_path),
        relevant_docs={query_id: tuple(good.get(query_id, ())) for query_id in judged},
        irrelevant_docs={query_id: tuple(ids) for query_id, ids in bad.items()},
        sources=(str(qrels), str(queries_path), str(corpus_path)),
    )


def write(content: DatasetContent, path: Path) -> None:
    """Write the folder, with all questions in one split."""
    with folder_written_whole(path) as folder:
        chunks = ({"_id": doc_id, "title": "", "text": text} for doc_id, text in content.corpus.items())
        queries = ({"_id": query_id, "text": text} for query_id, text in content.queries.items())
        write_json_lines(folder / "corpus.jsonl", chunks)
        write_json_lines(folder / "queries.jsonl", queries)
        (folder / "qrels").mkdir()
        lines = ["\t".join(QRELS_FIELDS)]
        for score, judgments in ((1, content.relevant_docs), (0, content.irrelevant_docs)):
            lines += [f"{query_id}\t{doc_id}\t{score}" for query_id, ids in judgments.items() for doc_id in ids]
        (folder / "qrels" / f"{WRITTEN_SPLIT}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recognises(source: Source) -> bool:
    if source.container == "folder":
        return (source.path / "corpus.jsonl").is_file() and (source.path / "queries.jsonl").is_file()
    if source.container != "delimited text":
        return False
    return set(QRELS_FIELDS) <= source.fields or (
        source.path.parent.name == "qrels" and _queries_beside(source.path).is_file()
    )


def _queries_beside(qrels: Path) -> Path:
    return qrels.parent.parent / "queries.jsonl"


def _corpus_beside(qrels: Path) -> Path:
    return qrels.parent.parent / "corpus.jsonl"


def _qrels(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted((path / "qrels").glob("*.tsv"))
    if len(found) != 1:
        names = ", ".join(str(qrels) for qrels in found) or "none"
        raise DatasetError(f"{path}: one qrels/*.tsv is wanted, there are {len(found)} ({names}); name the file itself")
    return found[0]


def _judgments(path: Path) -> tuple[dict[str, dict[str, None]], dict[str, dict[str, None]]]:
    good: dict[str, dict[str, None]] = {}
    bad: dict[str, dict[str, None]] = {}
    offences = Offences(path)
    number = 0
    for number, judgment in _judged(path):
        try:
            query_id, doc_id, score = judgment
            is_good = int(score) > 0
        except ValueError:
            offences.add("not a query-id, a corpus-id and a whole number as the score", f"row {number}")
            continue
        (good if is_good else bad).setdefault(query_id, {})[doc_id] = None
    offences.refuse(number)
    if not good:
        raise DatasetError(f"{path}: names no good chunk")
    return good, bad


def _judged(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Stream (row number, judgment), reading the columns by the header's names, or by position without a header.

    TREC's qrels have no header, and four columns separated by blanks, of which the second is unused.
    """
    with reading(path), path.open(encoding=UTF8) as file:
        first = file.readline()
    if all(name in first for name in QRELS_FIELDS):
        for number, record in Source(path).numbered_records():
            yield number, [str(record.get(name)) for name in QRELS_FIELDS]
        return
    with reading(path), path.open(encoding=UTF8) as file:
        for number, line in enumerate(file, 1):
            values = line.rstrip("\n").split("\t" if "\t" in line else None)
            if values:
                yield number, [values[0], *values[2:]] if len(values) == 4 else values


BEIR = Format(
    name="beir",
    layout="folder: corpus.jsonl, queries.jsonl, qrels/*.tsv (or one of these qrels files)",
    recognises=_recognises,
    read=read,
    write=write,
    has_chunks=lambda source: _corpus_beside(_qrels(source.path)).is_file(),
)

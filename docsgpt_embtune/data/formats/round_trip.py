"""What a dataset loses when it is written and read back, compared by text, as many formats keep no ids."""

from collections.abc import Mapping
from pathlib import Path

from docsgpt_embtune.data.formats.content import DatasetContent, cut, documents_of
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.wording import counted

_Facts = set[tuple[str, ...]]


def lost_by_writing(before: DatasetContent, after: DatasetContent, path: Path, format_name: str) -> list[str]:
    """List in words what a format could not hold.

    Args:
        before: Content that was written.
        after: Content that was read back. Both must be consistent.
        path: The file, for the message.
        format_name: The format that it was written in.

    Raises:
        DatasetError: If a text, judgment, date or document was read back that had not been written, or a question or
            judgment was lost that the format can hold.
    """
    lost = []
    written, read = _facts(before), _facts(after)
    for kind, facts in written.items():
        gone, new = facts - read[kind], read[kind] - facts
        has_a_place = kind in ("question", "good judgment") or (kind == "bad judgment" and bool(read[kind]))
        if new or (gone and has_a_place):
            changed = " → ".join(map(cut, min(gone or new)))
            raise DatasetError(
                f"{path}: not written, as {format_name} does not give back as it was the {kind} '{changed}' "
                f"(first of {len(gone or new)}, of {len(facts)}); choose another format with --to"
            )
        lost += [counted(len(gone), kind)] if gone else []
    return lost + (["the ids"] if _has_lost_ids(before, after) else [])


def _facts(content: DatasetContent) -> dict[str, _Facts]:
    queries, corpus = content.queries, content.corpus

    def judged(judgments: Mapping[str, tuple[str, ...]]) -> _Facts:
        return {(queries[query_id], corpus[doc_id]) for query_id, ids in judgments.items() for doc_id in ids}

    return {
        "question": {(text,) for text in queries.values()},
        "good judgment": judged(content.relevant_docs),
        "bad judgment": judged(content.irrelevant_docs),
        "chunk": {(text,) for text in corpus.values()},
        "date": {(queries[query_id], date) for query_id, date in content.dates.items() if query_id in queries},
        "chunk's document": {(corpus[d], document) for d, document in documents_of(content) if d in corpus},
    }


def _has_lost_ids(before: DatasetContent, after: DatasetContent) -> bool:
    return not (after.queries.items() <= before.queries.items() and after.corpus.items() <= before.corpus.items())

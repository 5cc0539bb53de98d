"""Options that say how to read an ambiguous dataset file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RelevantDocs = Literal["good-bad", "all-good"]
ROLES = ("question", "good", "bad", "score", "date", "document")  # of a table's columns


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a file that could mean several things.

    Attributes:
        corpus: File of the chunks, where the dataset's own file does not hold them.
        relevant_docs: What two ids in `relevant_docs` mean: a good and a bad chunk, or two good ones.
        columns: Role -> name of the column.
        good_score: Least score of a good chunk.
        keep_unknown: Whether to keep rows that name a chunk which the corpus lacks.
    """

    corpus: Path | None = None
    relevant_docs: RelevantDocs | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    good_score: float | None = None
    keep_unknown: bool = False

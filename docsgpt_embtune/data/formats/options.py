"""What settles a file that could mean several things."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RelevantDocs = Literal["good-bad", "all-good"]
ROLES = ("question", "good", "bad", "score", "date", "document")  # of a table's columns


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What settles a file that could mean several things.

    Attributes:
        corpus: File of the chunks, where the dataset's own file does not hold them.
        relevant_docs: What two ids in `relevant_docs` are.
        columns: Role -> name of the column.
        good_score: Score from which on a chunk is good.
        keep_unknown: Whether rows that name a chunk which the corpus lacks are read all the same.
    """

    corpus: Path | None = None
    relevant_docs: RelevantDocs | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    good_score: float | None = None
    keep_unknown: bool = False

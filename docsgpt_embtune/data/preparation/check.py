"""What a check for a fault is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from docsgpt_embtune.data.preparation.store import Store

Subject = Literal["question", "chunk", "judgment"]
Remedy = Literal["drop question", "drop chunk", "drop judgment", "drop bad mark", "mark as good", "join", "none"]
Finder = Callable[[Store, "CheckSettings"], None]


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What the checks need to know.

    Attributes:
        model: Base model that tells whether a bad chunk says what the good one says; None to go without.
        cross_encoder: Cross-encoder to ask instead.
    """

    model: str | None = None
    cross_encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fault.

    Attributes:
        name: What it is called in the log of changes.
        what: The fault, in words that a number follows.
        serious: Whether a model learned from such data, or a figure measured on it, is worth little.
        subject: What is counted.
        remedy: What `--fix` does.
        find: SQL that selects, or a function that puts into the table `offenders`: query_id, doc_id, other_id, text.
        slow: Whether it reads each text in Python, and is left out above the limit.
        hint: Says what the table `offenders` has in common that is mended better elsewhere; empty where nothing is.
    """

    name: str
    what: str
    serious: bool
    subject: Subject
    remedy: Remedy
    find: str | Finder
    slow: bool = False
    hint: Callable[[Store], str] | None = None


def find_offenders(store: Store, check: Check, settings: CheckSettings) -> None:
    """Fill the table `offenders` (query_id, doc_id, other_id, text)."""
    if isinstance(check.find, str):
        store.query(f"CREATE OR REPLACE TABLE offenders AS {check.find}", label=check.name)
    else:
        check.find(store, settings)

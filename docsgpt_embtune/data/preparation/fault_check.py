"""The definition of a check for one kind of fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from docsgpt_embtune.data.preparation.store import Store

Subject = Literal["question", "chunk", "judgment"]
Remedy = Literal["drop question", "drop chunk", "drop judgment", "drop bad mark", "mark as good", "join", "none"]
Finder = Callable[[Store, "CheckSettings"], None]


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Settings of the checks.

    Attributes:
        model: Base model to compare bad chunks with good ones; None to use none.
        cross_encoder: Cross-encoder to use instead.
    """

    model: str | None = None
    cross_encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check for one kind of fault.

    Attributes:
        name: Name of the fault in reports and in the log of changes.
        what: Description of the fault; reports put the count after it.
        serious: Whether a model trained on such data, or a metric measured on it, is worth little.
        subject: What has the fault, and is counted.
        remedy: What `--fix` does.
        find: SQL that selects the offenders (query_id, doc_id, other_id, text), or a function that fills the table
            `offenders` with them.
        slow: Whether it reads each text in Python, and is therefore skipped above `checks.LIMIT` texts.
        hint: Words a common cause of the offenders that is better repaired in the source; empty if there is none.
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

"""Check data, repair them if wanted, split them and write the splits."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docsgpt_embtune.data.formats.content import DatasetContent
from docsgpt_embtune.data.new_output import moved_when_good, refuse_existing_output
from docsgpt_embtune.data.preparation.checks import CHECKS, FIRST_AFTER_DUPLICATES, LIMIT
from docsgpt_embtune.data.preparation.fault_check import Check, CheckSettings, Remedy, find_offenders
from docsgpt_embtune.data.preparation.finders import find_near_duplicates
from docsgpt_embtune.data.preparation.fixes import mend
from docsgpt_embtune.data.preparation.splitting import SplitReport, split_questions, write_splits
from docsgpt_embtune.data.preparation.store import Store
from docsgpt_embtune.data.split import FEW_QUESTIONS
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.wording import counted

CHANGES = "changes.jsonl"
# With fewer, the confidence interval of recall@1 is wider than +-.1, so that only a large gain is significant.
ENOUGH_QUESTIONS = 100
_EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """A fault that was found.

    Attributes:
        name: Name of the check.
        what: Description of the fault; reports put the count after it.
        count: Number of offenders.
        serious: Whether the data should not be used with this fault.
        remedy: What `--fix` does; "none" if that is left to a person.
        examples: Ids and text of the first few.
        fixed: Whether it was repaired.
    """

    name: str
    what: str
    count: int
    serious: bool
    remedy: Remedy
    examples: tuple[str, ...]
    fixed: bool


@dataclass
class PreparationReport:
    """What preparation found and did.

    Attributes:
        sizes: "questions", "chunks", "good" and "bad" -> number, as read.
        faults: The faults that were found.
        notes: What was not checked, and other remarks.
        split: How the questions were split, if they were.
        files: The files that were written.
    """

    sizes: dict[str, int]
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split: SplitReport | None = None
    files: list[Path] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether no serious fault is left."""
        return not any(fault.serious and not fault.fixed for fault in self.faults)


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How to split the questions.

    Attributes:
        shares: Shares of train, validation and test; their sum is 1.
        by_date: Whether the newest questions are the test split.
        seed: Random seed.
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    by_date: bool = False
    seed: int = 0


def prepare(
    store: Store,
    *,
    held_out: Sequence[DatasetContent] = (),
    settings: CheckSettings | None = None,
    fix: bool = False,
    out: Path | None = None,
    split: SplitSettings | None = None,
    private: bool = False,
) -> PreparationReport:
    """Check the data of a store; repair, split and write them if wanted.

    Args:
        store: The data, changed by repairs.
        held_out: Content of files whose questions must stay unseen.
        settings: The models to use.
        fix: Whether to repair what can be repaired; each change is logged in `changes.jsonl`.
        out: Folder to write the splits into; nothing is written while a serious fault is left.
        split: How to split the questions.
        private: Whether only its owner may read `out`.

    Raises:
        DatasetError: If no question is left, they cannot be split like this, or `out` exists, at the start or by the
            end.
    """
    if out is not None:
        refuse_existing_output(out)
    settings, split = settings or CheckSettings(), split or SplitSettings()
    report = PreparationReport(_sizes(store), notes=list(store.notes))
    for content in held_out:
        store.add_held_out(content)
    log = store.folder / CHANGES
    near = _check(store, report, settings, log if fix else None)
    if out is None or not report.usable:
        _note_too_few(report, report.sizes["questions"], "question")
        return report
    if not _sizes(store)["questions"]:
        raise DatasetError(_none_left(store, report))
    report.split = split_questions(store, split.shares, seed=split.seed, by_date=split.by_date, near=near)
    with moved_when_good(out, private=private) as folder:
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask, as a container may run as another user
        files = write_splits(store, folder)
        if fix:
            files.append(Path(shutil.copy(log, folder)))
    report.files = [out / path.name for path in files]
    if "corpus.jsonl" in {path.name for path in files}:
        report.notes.append(f"not all chunks are in the splits' rows: give --corpus {out / 'corpus.jsonl'} with each")
    sizes = report.split.sizes
    if 0 < sizes["validation"] < ENOUGH_QUESTIONS and sizes["train"] + sizes["validation"] <= FEW_QUESTIONS:
        report.notes.append(
            f"{counted(sizes['validation'], 'validation question')}: so few hardly choose; with --split 60,0,40 "
            "embtune train, without --val, lets all that it learns from choose"
        )
    if split.shares[-1]:
        _note_too_few(report, sizes["test"], "test question")
    return report


def _check(store: Store, report: PreparationReport, settings: CheckSettings, log: Path | None) -> bool:
    """Run all checks in order; return whether near-duplicates were looked for."""
    texts = sum(_sizes(store)[kind] for kind in ("questions", "chunks"))
    slow = texts <= LIMIT
    if not slow:
        skipped = ", ".join(check.name for check in CHECKS if check.slow)
        report.notes.append(f"{texts:,} texts are more than {LIMIT:,}, so these were not looked for: {skipped}")
    with (log or Path(os.devnull)).open("w", encoding="utf-8") as changes:
        for check in Bar(CHECKS, desc="checking", unit=" checks"):
            if slow and check.name == FIRST_AFTER_DUPLICATES:
                find_near_duplicates(store)
            if check.slow and not slow:
                continue
            find_offenders(store, check, settings)
            fault = _fault(store, check, fixed=log is not None and check.remedy != "none")
            if fault is None:
                continue
            report.faults.append(fault)
            if check.hint and (hint := check.hint(store)):
                report.notes.append(f"{hint} ({check.name})")
            if fault.fixed:
                mend(store, check, changes)
    return slow


def _fault(store: Store, check: Check, *, fixed: bool) -> Fault | None:
    count = store.number("SELECT count(*) FROM offenders")
    if not count:
        return None
    examples = store.query(f"SELECT query_id, doc_id, other_id, text FROM offenders ORDER BY ALL LIMIT {_EXAMPLES}")
    return Fault(
        check.name,
        check.what,
        count,
        check.serious,
        check.remedy,
        # On one line, as an unknown id may be a whole text, by which a row names a chunk that the corpus lacks.
        tuple(" ".join(f"{' '.join(filter(None, ids))}: {text}".split()) for *ids, text in examples),
        fixed,
    )


def _sizes(store: Store) -> dict[str, int]:
    return {
        "questions": store.number("SELECT count(*) FROM questions"),
        "chunks": store.number("SELECT count(*) FROM chunks"),
        "good": store.number("SELECT count(*) FROM judgments WHERE good"),
        "bad": store.number("SELECT count(*) FROM judgments WHERE NOT good"),
    }


def _none_left(store: Store, report: PreparationReport) -> str:
    dropped = [fault for fault in report.faults if fault.fixed and fault.remedy.startswith("drop")]
    return (
        f"{store.source}: no question is left of {report.sizes['questions']:,}, as --fix dropped "
        f"{'; '.join(f'{fault.what}: {fault.count:,} ({fault.name})' for fault in dropped)}; look at them without "
        "--fix, which shows some of each, and mend them in the source or give others"
    )


def _note_too_few(report: PreparationReport, count: int, what: str) -> None:
    if count < ENOUGH_QUESTIONS:
        report.notes.append(
            f"{counted(count, what)}: with fewer than {ENOUGH_QUESTIONS} a check can prove only a great gain"
        )

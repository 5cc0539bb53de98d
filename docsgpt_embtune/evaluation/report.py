"""The check's report, as a single HTML file that opens offline."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from docsgpt_embtune.evaluation import summary
from docsgpt_embtune.evaluation.comparison import Comparison
from docsgpt_embtune.evaluation.plots import difference_plot, rank_plot, recall_plot
from docsgpt_embtune.evaluation.retrieval_check import CheckReport
from docsgpt_embtune.evaluation.verdict import FEWEST_TO_JUDGE
from docsgpt_embtune.files import PUBLIC, write_text_atomically

LISTED = 300  # most lost and most won questions shown; more would make the file too large for browsers
PRINTED = 40  # most of each in print, where there is no search; the worst come first
_VERSIONS = ("docsgpt-embtune", "sentence-transformers", "transformers", "torch", "faiss-cpu", "ir-measures", "scipy")


@dataclass(frozen=True)
class ChangedQuestion:
    """A question whose first good chunk has another rank with the tuned model.

    Attributes:
        text: The question.
        baseline_rank: Rank of its first good chunk with the baseline; None beyond the depth.
        tuned_rank: The same with the tuned model.
        baseline_top: Chunk that the baseline ranks first.
        tuned_top: Chunk that the tuned model ranks first.
        good: A good chunk, if neither model ranks one first.
    """

    text: str
    baseline_rank: int | None
    tuned_rank: int | None
    baseline_top: "JudgedChunk"
    tuned_top: "JudgedChunk"
    good: "JudgedChunk | None"

    @cached_property
    def gain(self) -> float:
        """Change of the reciprocal rank, -1..1, so that a change from 1 to 2 counts more than one from 10 to 20."""
        baseline, tuned = (1 / rank if rank else 0.0 for rank in (self.baseline_rank, self.tuned_rank))
        return tuned - baseline


@dataclass(frozen=True)
class JudgedChunk:
    """A chunk and its judgment for a question: "good", "bad" or "not judged"."""

    text: str
    judgment: str


def write_report(report: CheckReport, path: Path, *, mode: int = PUBLIC) -> None:
    """Write the report as HTML, with all text from data escaped.

    Args:
        report: Result of the check.
        path: The HTML file; replaced if it exists.
        mode: Its permissions.
    """
    write_text_atomically(path, render_report(report), mode=mode)


def render_report(report: CheckReport) -> str:
    """Render the report as HTML."""
    environment = Environment(
        loader=PackageLoader("docsgpt_embtune", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    changed = sorted(changed_questions(report.main), key=lambda question: question.gain)
    lost = [question for question in changed if question.gain < 0]
    won = [question for question in reversed(changed) if question.gain > 0]
    return environment.get_template("report.html").render(
        report=report,
        main=report.main,
        words=summary,
        plots=_plots(report.main),
        lost=lost,
        won=won,
        fewest=FEWEST_TO_JUDGE,
        listed=LISTED,
        printed=PRINTED,
        versions=dict(_installed(_VERSIONS)),
    )


def changed_questions(comparison: Comparison) -> Iterable[ChangedQuestion]:
    """Yield the questions whose first good chunk has another rank with the tuned model."""
    for row in comparison.query_ranks():
        if row["baseline_rank"] != row["tuned_rank"]:
            yield _changed_question(comparison, row)


def _changed_question(comparison: Comparison, row: dict[str, Any]) -> ChangedQuestion:
    dataset, query_id = comparison.dataset, row["query_id"]
    good, bad = dataset.relevant_docs[query_id], dataset.irrelevant_docs.get(query_id, ())

    def judged(doc_id: str) -> JudgedChunk:
        judgment = "good" if doc_id in good else "bad" if doc_id in bad else "not judged"
        return JudgedChunk(dataset.corpus[doc_id], judgment)

    tops = [judged(comparison.rankings[name].top(query_id, 1)[0]) for name in ("baseline", "tuned")]
    return ChangedQuestion(
        text=dataset.queries[query_id],
        baseline_rank=row["baseline_rank"],
        tuned_rank=row["tuned_rank"],
        baseline_top=tops[0],
        tuned_top=tops[1],
        good=None if any(top.judgment == "good" for top in tops) else judged(good[0]),
    )


def _plots(comparison: Comparison) -> dict[str, Markup]:
    ranks = comparison.query_ranks()
    drawn = {
        "recall": recall_plot(comparison),
        "difference": difference_plot(comparison),
        "good": rank_plot({n: [row[f"{n}_rank"] for row in ranks] for n in ("baseline", "tuned")}, "first good chunk"),
    }
    judged_bad = [row for row in ranks if "tuned_bad_rank" in row]
    if judged_bad:
        bad = {name: [row[f"{name}_bad_rank"] for row in judged_bad] for name in ("baseline", "tuned")}
        drawn["bad"] = rank_plot(bad, "first bad chunk")
    # Safe without escaping: the plots hold only numbers and fixed words, and no text from the data.
    return {name: Markup(svg) for name, svg in drawn.items()}


def _installed(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue

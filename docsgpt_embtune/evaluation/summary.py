"""The check in words and in one table, for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator

from docsgpt_embtune.evaluation.check import CheckReport, Comparison
from docsgpt_embtune.evaluation.ranking import DEPTH
from docsgpt_embtune.evaluation.verdict import HEADLINE, Verdict

_OPENING: dict[Verdict, str] = {
    "improved": "Improved: the tuned model finds more.",
    "worse": "Worse: the tuned model finds less.",
    "not enough evidence": "Not enough evidence: the difference could be chance.",
}
_COLUMNS = (("baseline", "baseline"), ("bm25", "BM25"), ("tuned", "tuned"))
_TARGET = 0.8  # the share of the questions of which the headline speaks


def verdict_in_words(report: CheckReport) -> str:
    """Say in a sentence or two what the check found."""
    sentences = [_OPENING[report.verdict], _first_hits(report.main)]
    if report.verdict == "not enough evidence":
        sentences.append(_what_could_have_shown(report.main))
    if report.failed_guards:
        sentences.append(f"But it is worse on {', '.join(report.failed_guards)}, which it would serve as well.")
    return " ".join(sentences)


def k_in_words(comparison: Comparison) -> str:
    """Say how many chunks each model needs to find the answer for four questions in five."""
    needed = comparison.k_for_recall[_TARGET]
    return (
        f"To find the answer for {_TARGET:.0%} of the questions, the baseline needs K = "
        f"{_k(needed['baseline'])}, the tuned model K = {_k(needed['tuned'])}."
    )


def summary(report: CheckReport) -> str:
    """Lay out the whole check as text."""
    return "\n".join(_lines(report))


def _lines(report: CheckReport) -> Iterator[str]:
    yield from _wrapped(verdict_in_words(report))
    yield from _wrapped(k_in_words(report.main))
    yield ""
    yield from _setting(report)
    yield ""
    yield from _table(report.main)
    for name, guard in report.guards.items():
        yield ""
        yield from _guard(name, guard)


def _first_hits(comparison: Comparison) -> str:
    baseline, tuned = (comparison.scores[name]["hit@1"] for name in ("baseline", "tuned"))
    return f"An answer comes first for {tuned:.0%} of the questions, with the baseline for {baseline:.0%}."


def _what_could_have_shown(comparison: Comparison) -> str:
    gain = comparison.judgment.smallest_gain[HEADLINE[0]]
    if gain is None:
        return f"{comparison.judgment.queries} questions are too few to show any gain."
    return f"{comparison.judgment.queries:,} questions like these show a gain of {gain:.3f} in {HEADLINE[0]} or more."


def _setting(report: CheckReport) -> Iterator[str]:
    dataset = report.main.dataset
    yield f"  questions  {len(dataset.queries):,} over {len(dataset.corpus):,} chunks{_left_out(report.main)}"
    yield f"  baseline   {report.baseline.name} ({report.baseline.fingerprint[:12]})"
    yield f"  tuned      {report.tuned.name} ({report.tuned.fingerprint[:12]})"


def _left_out(comparison: Comparison) -> str:
    return f"; {comparison.seen:,} left out, as the model learned from them" if comparison.seen else ""


def _table(comparison: Comparison) -> Iterator[str]:
    yield f"  {'':<12}" + "".join(f"{title:>10}" for _, title in _COLUMNS) + "   difference (95 % interval)"
    for metric in _shown(comparison):
        yield _row(comparison, metric) + (" *" if metric in HEADLINE else "")
    yield ""
    yield "  K needed to find the answer for"
    for target, needed in comparison.k_for_recall.items():
        yield f"  {target:>4.0%} of them" + "".join(f"{_k(needed[name]):>10}" for name, _ in _COLUMNS)
    yield ""
    p_values = ", ".join(f"{metric} p = {comparison.judgment.differences[metric].p:.4f}" for metric in HEADLINE)
    yield f"  * decides the verdict, corrected for there being {len(HEADLINE)}: {p_values}"


def _shown(comparison: Comparison) -> list[str]:
    recalls = [metric for metric in comparison.judgment.differences if metric.startswith("recall@")]
    return [*recalls, "mrr@10", "ndcg@10"]


def _row(comparison: Comparison, metric: str) -> str:
    difference = comparison.judgment.differences[metric]
    values = "".join(f"{comparison.scores[name][metric]:>10.3f}" for name, _ in _COLUMNS)
    return f"  {metric:<12}{values}   {difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _guard(name: str, guard: Comparison) -> Iterator[str]:
    yield f"  guard {name}: {guard.verdict} ({len(guard.dataset.queries):,} questions{_left_out(guard)})"
    for metric in HEADLINE:
        yield _row(guard, metric)


def _k(value: int | None) -> str:
    return f"> {DEPTH}" if value is None else str(value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, width=80)

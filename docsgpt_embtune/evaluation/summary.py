"""The check's result in words and one table, for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator

from docsgpt_embtune.evaluation.comparison import BM25_CHUNKS, Comparison
from docsgpt_embtune.evaluation.ranking import DEPTH
from docsgpt_embtune.evaluation.retrieval_check import CheckReport
from docsgpt_embtune.evaluation.truncation import TruncationAudit
from docsgpt_embtune.evaluation.verdict import HEADLINE, PURPOSE, Verdict
from docsgpt_embtune.manifest import MANIFEST
from docsgpt_embtune.model_folder import is_tuned_folder
from docsgpt_embtune.wording import counted

_OPENING: dict[Verdict, str] = {
    "improved": "Improved: the tuned model finds more.",
    "worse": "Worse: the tuned model finds less.",
    "not enough evidence": "Not enough evidence: the difference could be chance.",
}
TITLES = {"baseline": "baseline", "bm25": "BM25", "hybrid": "hybrid", "tuned": "tuned"}
_UNTUNED = {"bm25": "BM25, a search without any model,", "hybrid": "The baseline and BM25 in one, a hybrid search,"}
HOST_K = 2  # chunks that DocsGPT feeds to the language model by default


def verdict_in_words(report: CheckReport) -> str:
    """State the verdict and the hits at rank 1 in a few sentences."""
    opening = _OPENING[report.verdict]
    if report.main.scores["tuned"] == report.main.scores["baseline"]:
        opening = "Not enough evidence: both models find the same."
    sentences = [opening, _first_hits(report.main)]
    if report.verdict == "not enough evidence":
        sentences.append(_what_could_show(report.main))
    if report.failed_guards:
        sentences.append(f"But it is worse on {', '.join(report.failed_guards)}, which it would serve as well.")
    return " ".join(sentences)


def k_in_words(comparison: Comparison) -> str:
    """State the K that each model needs to find an answer for the headline share of the questions."""
    needed = comparison.k_for_recall[comparison.headline_share]
    baseline, tuned = (
        f"K > {DEPTH}" if needed[name] is None else f"K = {needed[name]}" for name in ("baseline", "tuned")
    )
    return (
        f"To find the answer for {comparison.headline_share:.0%} of the questions, the baseline needs {baseline}, the "
        f"tuned model {tuned}."
    )


def tokens_in_words(report: CheckReport) -> str:
    """State how many tokens the smaller K saves; empty if no gain is proven, or K is not smaller or unknown."""
    tokens = report.tokens_per_answer
    if report.verdict != "improved" or not tokens or tokens["tuned"] >= tokens["baseline"]:
        return ""
    return (
        f"That is about {tokens['baseline'] - tokens['tuned']:,.0f} tokens less per answer, "
        f"at {tokens['chunk']:,.0f} tokens per chunk."
    )


def default_k_in_words(comparison: Comparison) -> str:
    """State the hits at DocsGPT's default K; empty if that is not among the cutoffs."""
    metric = f"hit@{HOST_K}"
    if metric not in comparison.scores["tuned"]:
        return ""
    baseline, tuned = (comparison.scores[name][metric] for name in ("baseline", "tuned"))
    difference = comparison.judgment.differences[metric]
    luck = "" if difference.significant or baseline == tuned else ", which could be chance"
    return (
        f"At DocsGPT's default of K = {HOST_K}, an answer is among the chunks for {tuned:.0%} of the questions, "
        f"with the baseline for {baseline:.0%}{luck}."
    )


def evidence_in_words(comparison: Comparison) -> str:
    """State the number of questions, and of separate answers if several questions share one."""
    judgment = comparison.judgment
    answers = f" about {counted(judgment.groups, 'separate answer')}" if judgment.groups < judgment.queries else ""
    return f"{counted(judgment.queries, 'question')}{answers}"


def truncation_in_words(audit: TruncationAudit | None) -> str:
    """State how much of the chunks the model reads, or that this is unknown for a server's model."""
    if audit is None:
        return "How much of each chunk the tuned model reads is not told by the server that has it."
    if not audit.chunks_cut and not audit.good_chunks_cut:
        return f"The model reads every chunk to its end (longest: {audit.longest:,} wordpieces)."
    return (
        f"The model reads the first {audit.max_seq_length} wordpieces of a chunk: {audit.share_seen:.1%} of the "
        f"text. {audit.chunks_cut:,} of {audit.chunks:,} chunks are cut, and {audit.good_chunks_cut:,} of the "
        f"{audit.good_chunks:,} that answer a question. {audit.advice}"
    )


def warnings(report: CheckReport) -> list[str]:
    """List what a reader must know before trusting the numbers."""
    found = []
    if report.main.cosine_disagrees:
        found.append(_cosine_warning(report.main))
    for name, prompts in report.unused_prompts.items():
        if prompts:
            found.append(
                f"The {TITLES[name]} model was made for prompts ({', '.join(prompts)}), which DocsGPT does not put "
                "before questions and chunks; so neither does this check."
            )
    if report.baseline.fingerprint == report.tuned.fingerprint:
        found.append("Baseline and tuned are the same model.")
    if report.tuned.folder is None or not is_tuned_folder(report.tuned.folder):
        found.append(
            f"The tuned model has no {MANIFEST}: questions that it learned from are not known, so none are left out, "
            "and it is loaded as a stock model, without keywords and windows."
        )
    found += leads_in_words(report.main)
    if report.smoke_test and report.smoke_test.verdict == "worse":
        found.append(
            "The tuned model is worse at finding chunks by their own opening words: it has unlearned something."
        )
    return found


def summary(report: CheckReport) -> str:
    """Return the whole check as text."""
    return "\n".join(_lines(report))


def _lines(report: CheckReport) -> Iterator[str]:
    yield from _wrapped(verdict_in_words(report))
    yield from _wrapped(default_k_in_words(report.main))
    yield from _wrapped(f"{k_in_words(report.main)} {tokens_in_words(report)}")
    for warning in warnings(report):
        yield ""
        yield from _wrapped(f"WARNING: {warning}")
    yield ""
    yield from _setting(report)
    yield ""
    yield from _table(report.main)
    yield from _wrapped(untuned_in_words(report.main), indent="  ")
    yield ""
    yield from _wrapped(truncation_in_words(report.truncation), indent="  ")
    for name, guard in report.guards.items():
        yield ""
        yield from _guard(f"guard {name}", guard)
    if report.smoke_test:
        yield ""
        yield from _guard("smoke test, chunks by their own opening words", report.smoke_test)
        yield "  No guard was given: questions of the other sources that this model would serve (--guard)."


def _first_hits(comparison: Comparison) -> str:
    baseline, tuned = (comparison.scores[name]["hit@1"] for name in ("baseline", "tuned"))
    return f"An answer comes first for {tuned:.0%} of the questions, with the baseline for {baseline:.0%}."


def _cosine_warning(comparison: Comparison) -> str:
    names = " and ".join(comparison.cosine_disagrees)
    figures = "; ".join(
        f"{name}: nDCG@10 {comparison.scores[name]['ndcg@10']:.3f} by L2, "
        f"{comparison.cosine_scores[name]['ndcg@10']:.3f} by cosine"
        for name in comparison.cosine_disagrees
    )
    return (
        f"THE VECTORS OF {names.upper()} ARE NOT UNIT-NORM, so DocsGPT's FAISS store (L2) ranks them otherwise than "
        f"its other stores (cosine): {figures}."
    )


def leads_in_words(comparison: Comparison) -> list[str]:
    """List the searches without tuning that find more than the tuned model, and whether that could be chance."""
    leads = []
    for name, title in _UNTUNED.items():
        untuned, tuned = comparison.scores.get(name), comparison.scores["tuned"]
        if name in comparison.untuned_leads:
            leads.append(f"{title} finds more than the tuned model does.")
        elif untuned and all(untuned[metric] > tuned[metric] for metric in HEADLINE):
            leads.append(f"{title} finds no less than the tuned model does: its lead could be chance.")
    return leads


def untuned_in_words(comparison: Comparison) -> str:
    """Explain the hybrid column, or why BM25 and hybrid search are missing."""
    if "bm25" in comparison.scores:
        return "hybrid: the baseline's ranks and BM25's in one (RRF), which takes no tuning"
    return (
        f"BM25 is not beside them: its index lies in memory whole, so it is left out above {BM25_CHUNKS:,} chunks, "
        f"and there are {len(comparison.dataset.corpus):,}."
    )


def columns(comparison: Comparison) -> list[str]:
    """Return the columns of this comparison's table."""
    return [name for name in TITLES if name in comparison.scores]


def _what_could_show(comparison: Comparison) -> str:
    gain = comparison.judgment.smallest_gain[PURPOSE]
    if gain is None:
        return f"{evidence_in_words(comparison)} can show no gain: more are needed."
    return f"{evidence_in_words(comparison)} can show a gain of {gain:.3f} or more in {PURPOSE}."


def _setting(report: CheckReport) -> Iterator[str]:
    dataset = report.main.dataset
    yield f"  data       {evidence_in_words(report.main)}{_left_out(report.main)}"
    yield f"  corpus     {counted(len(dataset.corpus), 'chunk')}"
    yield f"  baseline   {report.baseline.name} ({report.baseline.fingerprint[:12]})"
    yield f"  tuned      {report.tuned.name} ({report.tuned.fingerprint[:12]})"


def _left_out(comparison: Comparison) -> str:
    return f"; {comparison.seen:,} left out, as they had a part in making a model" if comparison.seen else ""


def _table(comparison: Comparison) -> Iterator[str]:
    yield (
        f"  {'':<12}" + "".join(f"{TITLES[name]:>9}" for name in columns(comparison)) + "   difference (95 % interval)"
    )
    for metric in shown_metrics(comparison):
        yield _row(comparison, metric) + (" *" if metric in HEADLINE else "")
    yield ""
    yield "  K needed to find the answer for"
    for target, needed in comparison.k_for_recall.items():
        yield f"  {target:>4.0%} of them" + "".join(f"{_k(needed[name]):>9}" for name in columns(comparison))
    yield ""
    p_values = ", ".join(f"{metric} p = {comparison.judgment.differences[metric].p:.4f}" for metric in HEADLINE)
    yield f"  * decides the verdict, corrected for there being {len(HEADLINE)}: {p_values}"
    yield "  hit@1: an answer comes first; recall@K: of a question's answers the share among K"


def shown_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics that the tables show; the JSON has more."""
    recalls = [metric for metric in comparison.judgment.differences if metric.startswith("recall@")]
    return ["hit@1", *recalls, "mrr@10", "ndcg@10"]


def _row(comparison: Comparison, metric: str) -> str:
    difference = comparison.judgment.differences[metric]
    values = "".join(f"{comparison.scores[name][metric]:>9.3f}" for name in columns(comparison))
    return f"  {metric:<12}{values}   {difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _guard(name: str, guard: Comparison) -> Iterator[str]:
    yield from _wrapped(f"{name}: {guard.verdict} ({evidence_in_words(guard)}{_left_out(guard)})", indent="  ")
    for metric in HEADLINE:
        yield _row(guard, metric)


def _k(value: int | None) -> str:
    return f"> {DEPTH}" if value is None else str(value)


def _wrapped(text: str, indent: str = "") -> list[str]:
    # Paths are never broken, so that they can be copied.
    return textwrap.wrap(
        text, 80, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

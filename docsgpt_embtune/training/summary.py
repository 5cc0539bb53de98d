"""A training run in a few lines for a terminal."""

from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.training.extras import wide
from docsgpt_embtune.training.train import TrainingReport
from docsgpt_embtune.training.tuned_model import TunedModel
from docsgpt_embtune.wording import counted


def summary(report: TrainingReport) -> str:
    """Say which candidate was kept, how it did on validation, and where the model is."""
    tuned = report.tuned
    which = f"{'kept' if report.folder else 'best':<11} {tuned.chosen.name}"
    kept = f"{which}: validation {tuned.choice.line()}{_luck(tuned)}, {tuned.seconds:.0f} s"
    if report.folder is None:
        could_be_luck = tuned.preferred and tuned.choice.is_higher
        ending = f"{kept}\nno model    {_reason(report)}, so nothing was written (--keep-worse writes it)"
        return f"{ending}\nnext        {_more_evidence(tuned)}" if could_be_luck else ending
    width = wide(tuned.model.get_embedding_dimension() or 0, tuned.keywords)
    lines = [kept, f"model       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]}), {width}"]
    if not tuned.improved:
        lines.append(f"            written all the same: {_reason(report)}")
    if tuned.keywords or tuned.windows != "off":
        without = "DocsGPT's own class makes other vectors"
        lines.append(f"            needs the plugin (embtune install) or embtune serve: {without}")
    lines.append("next        embtune export, then embtune check on questions that it never saw, then embtune reembed")
    return "\n".join(lines)


def _luck(tuned: TunedModel) -> str:
    """Say whether a gain could be luck, where the model is kept either way."""
    if tuned.evidence_needed or not tuned.improved:
        return ""
    return " (beyond luck)" if tuned.choice.is_beyond_luck else " (which could be luck)"


def _reason(report: TrainingReport) -> str:
    tuned = report.tuned
    if mean_ndcg(tuned.choice.chosen) == mean_ndcg(tuned.choice.baseline):
        return "validation sees no difference from the base model"
    if not tuned.choice.is_higher:
        return "validation prefers the base model"
    if not tuned.preferred:
        return "a guard set got worse whatever was tried"
    return f"on {counted(tuned.choice.judgment.queries, 'validation question')} this could be luck"


def _more_evidence(tuned: TunedModel) -> str:
    """Suggest what would tell the gain from luck."""
    if tuned.material.training is None:
        return "give a few dozen questions of people with --train, or more chunks"
    if tuned.material.validation is None:
        return "give more questions, about other answers; or --corpus alone, which needs none"
    return (
        "give more questions to choose by; without --val, and with a --time-budget that lasts, all of up to 500 in "
        "--train choose; or --corpus alone, which needs none"
    )

"""A training run in a few lines for a terminal."""

from docsgpt_embtune.evaluation.metrics import mean_scores
from docsgpt_embtune.training.pipeline import TrainingReport
from docsgpt_embtune.training.validation import CHOSEN_BY


def summary(report: TrainingReport) -> str:
    """Say which epoch was kept, what validation thinks of it, and where the model is."""
    tuned = report.tuned
    best = mean_scores(tuned.epochs[tuned.best_epoch - 1])
    base = mean_scores(tuned.baseline)
    scores = ", ".join(f"{metric} {base[metric]:.3f} to {best[metric]:.3f}" for metric in ("recall@1", CHOSEN_BY))
    kept = f"kept        epoch {tuned.best_epoch} of {len(tuned.epochs)}: validation {scores}, {tuned.seconds:.0f} s"
    if report.folder is None:
        return f"{kept}\nno model    validation prefers the base model, so nothing was written (--keep-worse writes it)"
    return f"{kept}\nmodel       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]})"

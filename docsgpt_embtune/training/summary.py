"""A training run in a few lines for a terminal."""

from docsgpt_embtune.training.pipeline import TrainingReport
from docsgpt_embtune.wording import counted


def summary(report: TrainingReport) -> str:
    """Say which candidate was kept, what validation thinks of it, and where the model is."""
    tuned = report.tuned
    which = f"{'kept' if report.folder else 'best':<11} {tuned.chosen.name}"
    kept = f"{which}: validation {tuned.choice.line()}, {tuned.seconds:.0f} s"
    if report.folder is None:
        return f"{kept}\nno model    {_reason(report)}, so nothing was written (--keep-worse writes it)"
    lines = [kept, f"model       {report.folder.resolve()} ({report.manifest['fingerprint'][:12]})"]
    if not tuned.improved:
        lines.append(f"            written all the same: {_reason(report)}")
    if tuned.keywords or tuned.windows != "off":
        lines.append("            for the plugin (embtune install) or embtune serve: others make other vectors of it")
    lines.append("next        embtune check on questions that it never saw, then embtune export, embtune reembed")
    return "\n".join(lines)


def _reason(report: TrainingReport) -> str:
    tuned = report.tuned
    if not tuned.choice.is_higher:
        return "validation prefers the base model"
    if not tuned.preferred:
        return "a guard set got worse whatever was tried"
    return f"on {counted(tuned.choice.judgment.queries, 'validation question')} this could be luck"

"""The main job: questions and chunks in, a model folder that validation prefers to the base out."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docsgpt_embtune import __version__
from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.data.split import hold_out
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.metrics import mean_scores
from docsgpt_embtune.model_folder import fingerprint, refuse_foreign_destination, write_model_folder
from docsgpt_embtune.training.base_models import resolve_base
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.trainer import TunedModel, load_base, tune

# Of the training questions, where no validation questions are given.
VALIDATION_SHARE = 0.15
_VERSIONS_OF = ("sentence-transformers", "transformers", "torch", "faiss-cpu")


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did.

    Attributes:
        tuned: The model and its validation scores.
        folder: Where it was written; None if validation preferred the base model.
        manifest: What was written beside it; empty if nothing was.
    """

    tuned: TunedModel
    folder: Path | None
    manifest: dict[str, Any]


def train(
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    out: Path,
    *,
    base: str = "bundled",
    config: TrainConfig | None = None,
    keep_worse: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainingReport:
    """Tune a base model and write it, if validation prefers it.

    Args:
        training: Questions to learn from.
        validation: Questions to choose the epoch by; None holds 15 % of the training questions out for it.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        base: "bundled", a folder or a hub name.
        config: Settings.
        keep_worse: Write the folder even if validation prefers the base model.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the base model or the destination cannot be used.
        TrainingError: If there is nothing to learn from, or the run ends without a usable model.
        DatasetError: If no validation questions can be held out.
    """
    config = config or TrainConfig()
    refuse_foreign_destination(out)
    found = resolve_base(base)
    training, validation = keep_apart(training, validation, config.seed, say)
    say(f"training    {training.describe()}")
    say(f"validation  {validation.describe()}")
    model = load_base(found, config.device)
    say(f"base        {found.name}: {model.get_embedding_dimension()} wide, reads {model.max_seq_length} tokens")
    tuned = tune(model, training, validation, config, say=say)
    if not (tuned.improved or keep_worse):
        return TrainingReport(tuned, None, {})
    details = {
        "base": {"name": found.name, "fingerprint": fingerprint(found.folder)},
        "training": {
            **config.to_dict(),
            "precision": tuned.precision,
            "best_epoch": tuned.best_epoch,
            "mined_bad_chunks": tuned.mined,
            "seconds": round(tuned.seconds, 1),
        },
        "validation": _validation_record(tuned, validation),
        "data": data_record(training, validation),
        "versions": {
            "docsgpt-embtune": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS_OF},
        },
    }
    return TrainingReport(tuned, out, write_model_folder(model, found.folder, out, details))


def keep_apart(
    training: RetrievalDataset, validation: RetrievalDataset | None, seed: int, say: Callable[[str], None]
) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Make sure that no validation question is trained on."""
    if validation is None:
        training, validation = hold_out(training, VALIDATION_SHARE, seed)
        say(f"no --val given: {len(validation)} of the questions are held out to choose the epoch by")
    held_out = {query_digest(text) for text in validation.queries.values()}
    kept = [query_id for query_id, text in training.queries.items() if query_digest(text) not in held_out]
    if len(kept) < len(training):
        say(f"left out of training: {len(training) - len(kept)} questions that validation asks too")
    if not kept:
        raise TrainingError("every training question is a validation question too; give different files")
    return training.subset(kept), validation


def _validation_record(tuned: TunedModel, validation: RetrievalDataset) -> dict[str, Any]:
    judgment = tuned.judgment
    return {
        "queries": len(validation),
        "baseline": mean_scores(tuned.baseline),
        "epochs": [mean_scores(scores) for scores in tuned.epochs],
        "tuned": mean_scores(tuned.epochs[tuned.best_epoch - 1]),
        "difference": {metric: asdict(difference) for metric, difference in judgment.differences.items()},
        "verdict": judgment.verdict,
    }


def data_record(training: RetrievalDataset, validation: RetrievalDataset) -> dict[str, Any]:
    """Say what a model learned from in names, hashes and digests: questions are private, and the folder travels."""
    both = {"training": training, "validation": validation}
    texts = [text for dataset in both.values() for text in dataset.queries.values()]
    return {
        **{
            name: {
                "files": [Path(source).name for source in dataset.sources],
                "sha256": dataset.fingerprint,
                "queries": len(dataset),
                "corpus": len(dataset.corpus),
            }
            for name, dataset in both.items()
        },
        "seen_queries": sorted({query_digest(text) for text in texts}),
    }

"""The main job: questions and chunks in, a model folder that validation prefers to the base out."""

import platform
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from docsgpt_embtune import __version__
from docsgpt_embtune.base_models import BUNDLED, BaseModel, resolve_base
from docsgpt_embtune.data.corpus_questions import questions_from_corpus
from docsgpt_embtune.data.dataset import RetrievalDataset, refuse_no_dataset
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.metrics import mean_scores
from docsgpt_embtune.evaluation.smoke_test import smoke_test
from docsgpt_embtune.evaluation.truncation import count_cut
from docsgpt_embtune.manifest import Manifest, read_manifest
from docsgpt_embtune.model_folder import check_destination, is_tuned_folder, size_of_model
from docsgpt_embtune.model_writing import refuse_unwritable, write_model_folder
from docsgpt_embtune.seen_questions import data_record, digests_of, leave_out, without_learned
from docsgpt_embtune.serving.reading import Reading, WindowReader
from docsgpt_embtune.static_model import is_static, tokens_read
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.extras import Extras, extras_of, wide
from docsgpt_embtune.training.folds import HARDEST_IN_FOLDS
from docsgpt_embtune.training.held_out import (
    ASKED_OF_CHUNKS,
    apart_from_learned,
    are_few,
    asked_of_chunks,
    keep_apart,
    refuse_too_few_to_choose_by,
)
from docsgpt_embtune.training.losses import refuse_too_wide
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.processes import is_main_process
from docsgpt_embtune.training.recipe import Automatic, tune_as_told, tune_automatically
from docsgpt_embtune.training.run_folder import refuse_full_disk, run_folder
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuned_model import TunedModel
from docsgpt_embtune.wording import Say, counted, silent

OPENINGS = "chunks' opening words"
PROBED = 1000  # chunks that are sampled to tell whether a corpus is prose
_VERSIONS_OF = ("sentence-transformers", "transformers", "torch", "faiss-cpu")


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did.

    Attributes:
        tuned: The model and its validation scores.
        folder: Where it was written; None if validation did not prefer it, or another process writes it.
        manifest: What was written beside it; empty if nothing was.
    """

    tuned: TunedModel
    folder: Path | None
    manifest: Manifest

    def __str__(self) -> str:
        """Return what the command prints."""
        from docsgpt_embtune.training.summary import summary

        return summary(self)

    __repr__ = __str__  # a notebook shows what a cell ends with, which would be all scores of all questions


def train(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    out: str | Path,
    *,
    base: str | Path = BUNDLED,
    config: TrainConfig | None = None,
    automatic: Automatic | None = None,
    corpus: Mapping[str, str] | None = None,
    keep_worse: bool = False,
    resume: bool = False,
    say: Say = silent,
) -> TrainingReport:
    """Tune a base model and write it, if validation prefers it.

    Args:
        training: Questions to learn from; None to learn from the chunks alone, which an automatic run can.
        validation: Questions to choose by. None holds out some of the training questions or, if there are none, makes
            questions of some of the chunks. If the training questions are few, an automatic run cross-validates on them
            instead, unless there are guards or no time for it.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        base: "bundled", a folder or a hub name. If it is a tuned folder, questions that it learned from are left out of
            validation, and the new model must beat it as it serves, with its keywords and windows.
        config: Settings of a run of one's own. An automatic run uses only widths, seed, precision, device and
            `report_to` of it.
        automatic: Settings of an automatic run, which chooses loss and the rest by validation. It is what the command
            does, and the default; `config` without `automatic` is a run of one's own.
        corpus: doc_id -> text, from `load_corpus`, if there are neither training nor validation questions.
        keep_worse: Write the folder even if validation does not prefer it.
        resume: Resume a killed run to the same folder.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the base model or the destination cannot be used.
        TrainingError: If there is nothing to learn from, the destination's disk has no room, the run ends without a
            usable model, or the run to resume had other data or settings, or is finished.
        DatasetError: If no validation questions can be held out.
    """
    refuse_no_dataset(training=training, validation=validation)
    if not isinstance(corpus, Mapping | None):
        raise TypeError(f"corpus must map ids to texts, and is {corpus!r:.80}; give what load_corpus(…) returns")
    if automatic is None and config is None:
        automatic = Automatic()
    config, out = config or TrainConfig(), Path(out)
    check_destination(out, say)
    found = resolve_base(str(base))
    refuse_full_disk(out, size_of_model(found.folder))
    made_of = read_manifest(found.folder) if is_tuned_folder(found.folder) else {}
    training, validation = apart_from_learned(training, validation, made_of, config.seed, say)
    material = _split(training, validation, corpus, automatic, config.seed, say)
    material = _guarded_by_others(material, made_of, say)
    if automatic is not None and not keep_worse:
        refuse_too_few_to_choose_by(material.to_choose_by)
        if material.asked_by_nobody:
            _refuse_what_is_no_prose(material.to_choose_by.corpus, config.seed)
    if automatic is not None and material.asked_by_nobody:
        material = _guarded_by_openings(material)
    _describe(material, say)
    model = load_base(found, config.device)
    refuse_unwritable(model)  # not after the training
    refuse_too_wide(model, config.widths)  # before the corpus is read, which may take minutes
    reader = _reader_of(found, model)
    extras = extras_of(found, made_of, reader)
    _describe_base(found, model, extras, made_of, say)
    _tell_of_limits(model, material, automatic, say)
    with run_folder(out, _identity(found, config, automatic, material), resume=resume, say=say) as folder:
        if automatic is not None:
            tuned = tune_automatically(
                model, material, config, automatic, reader=reader, extras=extras, folder=folder, say=say
            )
        else:
            tuned = tune_as_told(model, material, config, folder, say, extras=extras)
        if not (tuned.improved or keep_worse) or not is_main_process():
            return TrainingReport(tuned, None, {})
        details = _details(found, config, automatic, tuned, made_of)
        manifest = write_model_folder(model, found.folder, out, details, tuned.keywords)
    return TrainingReport(tuned, out, manifest)


def _refuse_what_is_no_prose(corpus: Mapping[str, str], seed: int) -> None:
    """Raise TrainingError if most chunks have no words that could pass for a person's question.

    On a library's functions without their docstrings, questions made of any words of them preferred a model whose
    nDCG@10 on people's questions (the docstrings' beginnings) was .09 lower. Of those 2,736 chunks, 892 have a run of
    words that is prose; of documentation, nine in ten and more have.
    """
    some = corpus if len(corpus) <= PROBED else dict(random.Random(seed).sample(list(corpus.items()), PROBED))
    asked = len(questions_from_corpus(some, seed, of_prose=True))
    if 2 * asked < len(some):
        raise TrainingError(
            f"only {asked:,} of {counted(len(some), 'chunk')} looked at have a few words in a row that are prose: "
            "program text and tables do not ask as people do, and cannot choose a model; give --train with questions "
            "of people, a few dozen at least, or --val (--keep-worse trains all the same)"
        )


def _guarded_by_others(material: Material, made_of: Manifest, say: Say) -> Material:
    """Leave out of the guards the questions that this run or the base learned from: memorised, they hide forgetting."""
    learned = digests_of(material.training) if material.training else set()
    guards = {name: without_learned(leave_out(guard, learned), made_of) for name, guard in material.guards.items()}
    by_base = ", or the base model's" if made_of else ""
    for name, guard in guards.items():
        if not len(guard):
            raise TrainingError(f"guard {name}: all of its questions are training questions{by_base}; give others")
        if left_out := len(material.guards[name]) - len(guard):
            say(f"left out of the guard {name}: {counted(left_out, 'question')} that are training questions{by_base}")
    return replace(material, guards=guards)


def _guarded_by_openings(material: Material) -> Material:
    """Add a guard where no person's questions choose: chunks asked for by their own opening words.

    On 157,000 chunks, mostly program text, the questions made of the chunks preferred a model that was worse on
    people's questions (nDCG@10 .02 lower with half of the change in the weights, .04 with all of it). Opening words
    showed it: .03 and .04 lower.
    """
    openings = smoke_test(material.to_choose_by.corpus)
    return material if openings is None else replace(material, guards={**material.guards, OPENINGS: openings})


def _split(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    corpus: Mapping[str, str] | None,
    automatic: Automatic | None,
    seed: int,
    say: Say,
) -> Material:
    if training is None and automatic is None:
        raise TrainingError("without training questions only the automatic recipe can train; give --train")
    guards = automatic.guards if automatic is not None else {}
    if training is not None:
        if validation is None and automatic is not None and not guards and are_few(training):
            return Material(training, None, hardest=HARDEST_IN_FOLDS)
        return Material(*keep_apart(training, validation, seed, say), guards)
    if validation is not None:
        return Material(None, validation, guards)
    if not corpus:
        raise TrainingError("there is nothing to learn from; give --train, or --corpus alone")
    made = asked_of_chunks(corpus, seed, say)
    return Material(None, made.questions, guards, by_own_words=made.by_own_words)


def _describe(material: Material, say: Say) -> None:
    learned = material.training.describe() if material.training else "every chunk of the corpus, no questions"
    say(f"training    {learned}")
    if material.validation is not None:
        say(f"validation  {material.validation.describe()}")


def _describe_base(base: BaseModel, model: SentenceTransformer, extras: Extras, made_of: Manifest, say: Say) -> None:
    width = wide(model.get_embedding_dimension() or 0, extras.keywords)
    windows = ", and longer chunks in windows" if extras.windows else ""
    read = "every text whole" if is_static(model) else f"{model.max_seq_length} tokens"
    say(f"base        {base.name}: {width}, reads {read}{windows}")
    if "query_adapter" in made_of:
        say("            its query adapter is left out, and what that adds is not compared with")


def _tell_of_limits(model: SentenceTransformer, material: Material, automatic: Automatic | None, say: Say) -> None:
    """Say that a static model moves little at a transformer's learning rate, and how many questions are not read whole.

    Windows are for chunks alone.
    """
    if automatic is not None and is_static(model):
        say("            a static model, which hardly learns in these steps: better tune a transformer, and distill it")
    questions = [text for dataset in material.asked for text in dataset.queries.values()]
    if cut := count_cut(model, questions):
        say(f"            {cut:,} of {counted(len(questions), 'question')} are longer: their ends are not read")


def _reader_of(base: BaseModel, model: SentenceTransformer) -> WindowReader | None:
    """Return what cuts long chunks into windows; None if the base lacks the tokenizer or reads every text whole."""
    if is_static(model) or not (base.folder / "tokenizer.json").is_file():
        return None
    return WindowReader(base.folder, tokens_read(model))


def _identity(base: BaseModel, config: TrainConfig, automatic: Automatic | None, material: Material) -> dict[str, Any]:
    """Describe a run by what decides its outcome, so that another run knows whether it may resume it.

    If it may not, the message names the key whose value differs.
    """
    return {
        "version": __version__,  # another one may have other stages
        "--base": base.fingerprint,
        **{f"--{name.replace('_', '-')}": value for name, value in config.to_dict().items()},
        "--time-budget": automatic.minutes if automatic else None,
        "--windows": automatic.windows if automatic else None,
        "--keywords": automatic.keywords if automatic else None,
        "--guard": [guard.fingerprint for guard in material.guards.values()],
        "set of training questions": material.training.fingerprint if material.training else None,
        "set of validation questions": material.validation.fingerprint if material.validation else None,
    }


def _details(
    base: BaseModel,
    config: TrainConfig,
    automatic: Automatic | None,
    tuned: TunedModel,
    made_of: Manifest,
) -> Manifest:
    told = config.to_dict()
    if automatic:
        told = {"recipe": "auto", "minutes": automatic.minutes, "widths": config.widths, "seed": config.seed}
    details: Manifest = {"base": {"name": base.name, "fingerprint": base.fingerprint}}
    if tuned.windows != "off":
        details["serving"] = {"reading": Reading(tokens_read(tuned.model), tuned.windows).to_dict()}
    return {
        **details,
        "training": {
            **told,
            "precision": tuned.precision,
            "kept": tuned.chosen.name,
            "mined_bad_chunks": tuned.mined,
            "seconds": round(tuned.seconds, 1),
        },
        "validation": _validation_record(tuned),
        "data": data_record(tuned.material.training, tuned.material.validation, made_of),
        "versions": {
            "docsgpt-embtune": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS_OF},
        },
    }


def _validation_record(tuned: TunedModel) -> dict[str, Any]:
    choice = tuned.choice.to_dict()
    return {
        "queries": choice.pop("queries"),
        "asked_by": _asked_by(tuned.material),
        "baseline": choice.pop("baseline"),
        "candidates": {candidate.name: mean_scores(candidate.scores) for candidate in tuned.candidates},
        **choice,
    }


def _asked_by(material: Material) -> str:
    if material.asked_by_nobody:
        return ASKED_OF_CHUNKS
    if material.validation:
        return "the questions given"
    return "the training questions, of models that learned without them"

"""Fit a query adapter to questions, and write it as a folder that embeds chunks as the model did before.

For a model on this machine it is a model folder; for a server's model it holds the adapter and where the server is.
"""

import gc
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from docsgpt_embtune import __version__
from docsgpt_embtune.adapter import ADAPTER_FILE, QueryAdapter
from docsgpt_embtune.base_models import BUNDLED, BaseModel, resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset, refuse_no_dataset
from docsgpt_embtune.deployment.deployed_model import FolderModel, load_deployed_model
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import DatasetError, ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.vector_cache import embed_both
from docsgpt_embtune.files import PARTIAL, folder_written_whole
from docsgpt_embtune.manifest import DataRecord, FittingRecord, Manifest, read_manifest, write_manifest
from docsgpt_embtune.model_folder import (
    adapts_a_server,
    check_destination,
    document_fingerprint,
    fingerprint,
    is_tuned_folder,
    refuse_foreign_destination,
)
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.remote_model import RemoteEmbeddings, RemoteModel
from docsgpt_embtune.seen_questions import adapter_data_record, digests_of, leave_out, with_learned_too, without_learned
from docsgpt_embtune.training.config import SEED
from docsgpt_embtune.training.folds import FOLDS
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, answers_asked_about, refuse_too_few_to_choose_by
from docsgpt_embtune.training.query_adapter.fitting import SCALE, AdapterReport, fit_adapter
from docsgpt_embtune.training.query_adapter.server_folder import (
    prove_that_chunks_stay,
    refuse_other_lengths,
    what_it_asks_of_a_deployment,
    write_for_server,
)
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.urls import is_url
from docsgpt_embtune.vectors import EmbeddingModel, Vectors
from docsgpt_embtune.wording import Say, counted, silent

_CHUNKS_STAY = (
    "stored chunks stay as they are; the adapter works through `embtune serve` or the plugin (embtune install): "
    "without them the folder is the model it was made for"
)


def adapt(
    training: RetrievalDataset,
    validation: RetrievalDataset | None,
    out: str | Path,
    *,
    model: str | Path = BUNDLED,
    cache: str | Path | None = None,
    seed: int = SEED,
    keywords: bool = False,
    keep_worse: bool = False,
    say: Say = silent,
) -> AdapterReport:
    """Fit a query adapter to a model and write both as a model folder, if cross-validation prefers it.

    Args:
        training: Questions to learn from and to choose by, over the corpus that is searched.
        validation: More such questions.
        out: The model folder; a tuned folder there is replaced in one step, anything else is left alone.
        model: The model that made the stored vectors: "bundled", a model folder, tuned or not, a hub name, or a
            server's model as URL#MODEL, which is sent the questions and the chunks.
        cache: Folder that keeps vectors for the next time; none if not given.
        seed: Seed of the sample of a large corpus.
        keywords: Whether keywords may be put beside a server's vectors, of questions and of chunks, which then have to
            be embedded again. (`training.train.train` puts them beside a local model's.)
        keep_worse: Write the folder even if cross-validation does not prefer it.
        say: Takes one line of plain text before each stage.

    Raises:
        ModelFolderError: If the model or the destination cannot be used, or the model has an adapter already.
        TrainingError: If the questions are too few to choose by.
        DatasetError: If training and validation have different chunks of one id.
        EvaluationError: If the model gives unusable vectors.
        RemoteModelError: If a server cannot be asked.
    """
    refuse_no_dataset(training=training, validation=validation)
    model, out, cache = str(model), Path(out), Path(cache) if cache else None
    if keywords and not is_url(model):
        raise ModelFolderError(
            f"{model}: --keywords is for a server's model; for one on this machine, embtune train adds them"
        )
    check_destination(out, say, made_of=None if is_url(model) else resolve_base(model).folder)
    given = training if validation is None else _together(training, validation)
    refuse_too_few_to_choose_by(given)
    say(f"questions   {given.describe()}")
    with _opened(model, say) as base:
        questions = _new_to(base, given, say)
        query_embeddings, corpus_embeddings = embed_both(base.embeddings, base.fingerprint, questions, cache)
        width, count = corpus_embeddings.shape[1], counted(len(questions), "question")
        say(f"model       {base.name}: {width} wide; fitting a map on {count}")
        report = fit_adapter(questions, query_embeddings, corpus_embeddings, seed=seed, keywords=keywords)
        if not (report.improved or keep_worse):
            return report
        record = _record(report, adapter_data_record(training, validation))
        corpus = list(questions.corpus.values()), corpus_embeddings
        base.write(out, report, record, corpus, learned=digests_of(questions))
        return replace(report, folder=out)


Corpus = tuple[Sequence[str], Vectors]  # chunks, and the model's vectors of them (N, D)


@dataclass(frozen=True)
class _FolderBase:
    """A model on this machine that made the stored vectors.

    Attributes:
        model: The model, ready to embed.
        manifest: Its manifest; empty if it is not tuned.
    """

    model: FolderModel
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def embeddings(self) -> EmbeddingModel:
        return self.model.embeddings

    def write(
        self, out: Path, report: AdapterReport, record: FittingRecord, corpus: Corpus, *, learned: Collection[str]
    ) -> None:
        write_adapted_folder(self.model, out, report.adapter, record, corpus, learned=learned)


@dataclass(frozen=True)
class _ServerBase:
    """A server's model that made the stored vectors.

    Attributes:
        remote: The model, and where its server is.
        embeddings: The model, ready to embed.
        manifest: Empty: no folder says what the model learned from.
    """

    remote: RemoteModel
    embeddings: RemoteEmbeddings
    manifest: Manifest = field(default_factory=Manifest)

    @property
    def name(self) -> str:
        return self.remote.name

    @property
    def fingerprint(self) -> str:
        return self.remote.fingerprint

    def write(
        self, out: Path, report: AdapterReport, record: FittingRecord, corpus: Corpus, *, learned: Collection[str]
    ) -> None:
        adapter, keywords = report.adapter, report.keywords
        write_for_server(
            self.remote,
            self.embeddings,
            out,
            corpus,
            adapter=adapter,
            keywords=keywords,
            record=record,
            learned=learned,
        )


_Base = _FolderBase | _ServerBase


@contextmanager
def _opened(model: str, say: Say) -> Iterator[_Base]:
    if is_url(model):
        remote = RemoteModel.named(model)
        with closing(remote.load(say)) as server:
            refuse_other_lengths(server.probe, remote.name)
            yield _ServerBase(remote, server)
        return
    folder = resolve_base(model).folder
    if (folder / ADAPTER_FILE).is_file():
        raise ModelFolderError(f"{folder}: has a query adapter already; give --model the one that it was made for")
    base = load_deployed_model(model)
    if not is_tuned_folder(folder):
        _refuse_vectors_that_no_folder_keeps(base)
    yield _FolderBase(base, read_manifest(folder) if is_tuned_folder(folder) else {})


def _refuse_vectors_that_no_folder_keeps(base: FolderModel) -> None:
    """Raise ModelFolderError if the folder to be written would make others: it is of full width, and unit norm."""
    remedy = "tune the model with `embtune train`, and embed the chunks again"
    if kept := base.embeddings.model.truncate_dim:
        raise ModelFolderError(
            f"{base.name}: cuts its vectors to {kept} numbers (truncate_dim), which a folder with an adapter does not; "
            f"{remedy}"
        )
    refuse_other_lengths(base.embeddings.embed_query("length"), base.name, remedy)


def _new_to(base: _Base, questions: RetrievalDataset, say: Say) -> RetrievalDataset:
    """Leave out questions that the model learned from: they already lie near their chunks, as new ones do not."""
    new = without_learned(questions, base.manifest)
    if learned := len(questions) - len(new):
        say(f"left out    {counted(learned, 'question')} that the model learned from")
        if answers_asked_about(new) < FEWEST_GROUPS:
            raise TrainingError(
                f"{base.name} learned from {learned:,} of {counted(len(questions), 'question')}, which leaves "
                f"{counted(answers_asked_about(new), 'answer')} to choose by: fewer than {FEWEST_GROUPS} cannot tell "
                "any gain from luck; give questions that it did not learn from, or as --model what it was made of"
            )
    return new


def _together(training: RetrievalDataset, validation: RetrievalDataset) -> RetrievalDataset:
    """Join the questions and chunks of two files, whose query ids may be the same; questions of both are taken once."""
    for doc_id, text in validation.corpus.items():
        if training.corpus.get(doc_id, text) != text:
            raise DatasetError(
                f"{', '.join(validation.sources)}: chunk {doc_id!r} is another text than in "
                f"{', '.join(training.sources)}; give both files the chunks of one corpus"
            )
    parts = {"training": leave_out(training, digests_of(validation)), "validation": validation}

    def joined(field: str) -> dict[str, Any]:
        return {f"{name} {key}": value for name, part in parts.items() for key, value in getattr(part, field).items()}

    return RetrievalDataset(
        queries=joined("queries"),
        corpus={**training.corpus, **validation.corpus},
        relevant_docs=joined("relevant_docs"),
        irrelevant_docs=joined("irrelevant_docs"),
        sources=(*training.sources, *validation.sources),
    )


def write_adapted_folder(
    base: FolderModel,
    out: Path,
    adapter: QueryAdapter,
    record: FittingRecord,
    corpus: Corpus,
    *,
    learned: Collection[str],
) -> None:
    """Write a model folder that embeds chunks as its base does, and questions through the adapter.

    Args:
        base: The model that made the stored vectors, tuned or not.
        out: Destination; replaced in one step if it is a tuned folder already.
        adapter: The adapter to apply to questions.
        record: What the manifest says of the adapter.
        corpus: Chunks and the base's vectors of them (N, D); some are embedded again, to prove that none changed.
        learned: Digests of the questions that the adapter learned from, which are added to the base's own.

    Raises:
        ModelFolderError: If the destination is something else, or the written folder changes the chunks' vectors.
    """
    refuse_foreign_destination(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside,
        folder_written_whole(out) as new,
    ):
        source = base.folder if is_tuned_folder(base.folder) else _portable(base.folder, Path(beside) / "base")
        shutil.copytree(source, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(PARTIAL))
        manifest = with_learned_too(read_manifest(source), learned)
        of_weights = document_fingerprint(base.folder)  # how chunks are read is added to it on opening
        manifest["query_adapter"] = {**adapter.write(new), "document_fingerprint": of_weights, **record}
        manifest["fingerprint"] = fingerprint(new)
        write_manifest(new, manifest)
        prove_that_chunks_stay(_Unshared(str(new)), *corpus)
        _Unshared.close()


class _Unshared(TunedEmbeddings):
    """A model that can be closed: Windows renames no folder with an open file in it."""

    _models: ClassVar[dict[tuple[str, ...], Any]] = {}

    @classmethod
    def close(cls) -> None:
        """Forget all such models, and close their files."""
        cls._models.clear()
        gc.collect()


def _portable(folder: Path, target: Path) -> Path:
    name = resolve_base(str(folder)).name
    details: Manifest = {"base": {"name": name, "fingerprint": fingerprint(folder)}}
    write_model_folder(load_base(BaseModel(name, folder), "cpu"), folder, target, details)
    return target


def _record(report: AdapterReport, data: DataRecord) -> FittingRecord:
    return {
        "training": {"strength": report.strength, "scale": SCALE, "seconds": round(report.seconds, 1)},
        "cross_validation": {"folds": FOLDS, **report.choice.to_dict()},
        "data": data,
        "versions": {"docsgpt-embtune": __version__},
    }


def summary(report: AdapterReport) -> str:
    """Say how the adapter did in cross-validation, where it is, and what it asks of a deployment."""
    judgment = report.choice.judgment
    lines = [
        f"adapter     strength {report.strength:g}{_keywords_of(report)}: {report.choice.line()}, "
        f"{report.seconds:.0f} s",
        f"            each of {counted(judgment.queries, 'question')} asked of a map fitted without it: "
        f"{judgment.verdict}",
    ]
    reason = "this could be luck" if report.choice.is_higher else "the model as it is answers as well, or better"
    if report.folder is None:
        return "\n".join([*lines, f"no model    {reason}, so nothing was written (--keep-worse writes it)"])
    lines.append(f"model       {report.folder.resolve()}")
    if not report.improved:
        lines.append(f"            written all the same: {reason}")
    asked = [_CHUNKS_STAY]
    if adapts_a_server(report.folder):
        asked = what_it_asks_of_a_deployment(report.folder)
    return "\n".join([*lines, *(f"            {line}" for line in asked)])


def _keywords_of(report: AdapterReport) -> str:
    return f", keywords at {report.keywords.weight:.0%}" if report.keywords else ""

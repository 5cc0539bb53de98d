"""The retrieval check: baseline against tuned, on questions that the tuned model has not seen."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset, refuse_no_dataset
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import EvaluationError, ModelFolderError
from docsgpt_embtune.evaluation.comparison import Comparison, Side, compare
from docsgpt_embtune.evaluation.metrics import KS
from docsgpt_embtune.evaluation.ranking import DEPTH, StoreName
from docsgpt_embtune.evaluation.smoke_test import smoke_test
from docsgpt_embtune.evaluation.truncation import TruncationAudit, audit_truncation
from docsgpt_embtune.evaluation.vector_cache import VectorCache, cache_folder, remembered
from docsgpt_embtune.evaluation.verdict import HEADLINE_KS, Verdict
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import document_fingerprint, fingerprint, is_tuned_folder
from docsgpt_embtune.remote_model import RemoteModel
from docsgpt_embtune.seen_questions import leave_out, seen_digests
from docsgpt_embtune.serving.graphs import graphs_of
from docsgpt_embtune.wording import Say, counted, silent


@dataclass(frozen=True)
class CheckedModel:
    """One side of the comparison.

    Attributes:
        name: Hub name or folder, as the user knows it.
        folder: Where its files are.
        fingerprint: Hex sha256 over everything that determines its vectors.
    """

    name: str
    folder: Path
    fingerprint: str

    @classmethod
    def of_base(cls, base: str) -> Self:
        """Find a base model by "bundled", a hub name or a folder."""
        found = resolve_base(base)
        return cls(name=found.name, folder=found.folder, fingerprint=found.fingerprint)

    @classmethod
    def of_folder(cls, folder: str | Path) -> Self:
        """Find a model folder.

        Raises:
            ModelFolderError: If there is no such folder.
        """
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise ModelFolderError(f"{folder}: no such folder; give the tuned model's with --tuned")
        return cls(name=str(folder), folder=path, fingerprint=fingerprint(path))

    @cached_property
    def document_fingerprint(self) -> str:
        """Hex sha256 over everything that determines its chunk vectors, which excludes a query adapter."""
        return document_fingerprint(self.folder)

    def load(self) -> StockEmbeddings:
        """Load the model with the class that DocsGPT would use.

        A tuned folder with graphs runs on its serving engine. Anything else runs in torch, on a GPU if there is one.
        """
        if not is_tuned_folder(self.folder):
            return StockEmbeddings(self.folder, device=None)
        serves_a_graph = graphs_of(self.folder, read_manifest(self.folder))
        return TunedEmbeddings(str(self.folder), model_kwargs={} if serves_a_graph else {"device": None})

    def side(self, model: StockEmbeddings, cache: Path | None) -> Side:
        """Build this model's side of a comparison.

        Args:
            model: The loaded model.
            cache: Folder that caches its vectors.
        """
        documents = model.fingerprint if isinstance(model, TunedEmbeddings) else self.document_fingerprint
        questions = self.fingerprint
        if documents != self.document_fingerprint:  # another reading or int8: question vectors must not share the cache
            questions = hashlib.sha256(f"{questions} {documents}".encode()).hexdigest()
        return Side(model, questions, cache, documents)


@dataclass(frozen=True)
class CheckReport:
    """What a retrieval check found.

    Attributes:
        baseline: The model to beat.
        tuned: The tuned model.
        main: Comparison on the questions that the tuned model was made for.
        guards: Name -> comparison on questions of another source that the same model must serve.
        smoke_test: Comparison on questions made from the corpus, if no guard was given and the corpus allows it.
        truncation: How much of the chunks the tuned model reads; None for a server's model.
        unused_prompts: "baseline" and "tuned" -> names of the model's prompts that DocsGPT never uses.
        ks: Cutoffs of the metrics.
        store: Store that ranked the chunks.
        seed: Seed of the resampling.
    """

    baseline: CheckedModel | RemoteModel
    tuned: CheckedModel | RemoteModel
    main: Comparison
    truncation: TruncationAudit | None
    smoke_test: Comparison | None = None
    guards: Mapping[str, Comparison] = field(default_factory=dict)
    unused_prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ks: tuple[int, ...] = KS
    store: StoreName = "faiss"
    seed: int = 0

    def __str__(self) -> str:
        """Return what the command prints."""
        from docsgpt_embtune.evaluation.summary import summary

        return summary(self)

    __repr__ = __str__  # a notebook shows what a cell ends with, which would be all scores of all questions

    @property
    def verdict(self) -> Verdict:
        """Verdict of the main comparison."""
        return self.main.verdict

    @property
    def failed_guards(self) -> list[str]:
        """Names of the guard sets on which the tuned model is worse."""
        return [name for name, guard in self.guards.items() if guard.verdict == "worse"]

    @property
    def proven(self) -> bool:
        """Whether the tuned model is better on the main questions, and worse on no guard set."""
        return self.verdict == "improved" and not self.failed_guards

    @property
    def tokens_per_answer(self) -> dict[str, float] | None:
        """Mean tokens per chunk ("chunk"), and in the chunks that each model needs to answer the headline share.

        None if a model needs more chunks than the check ranks, or if a server's model does not count tokens. Tokens are
        the tuned model's wordpieces; English text has about as many of them as of a language model's tokens.
        """
        if self.truncation is None:
            return None
        needed = self.main.k_for_recall[self.main.headline_share]
        per_chunk = self.truncation.wordpieces_per_chunk
        tokens = {name: k * per_chunk for name in ("baseline", "tuned") if (k := needed[name]) is not None}
        return {"chunk": per_chunk, **tokens} if len(tokens) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as `embtune check --json` writes it."""
        return {
            "models": {
                name: {"name": model.name, "fingerprint": model.fingerprint}
                for name, model in (("baseline", self.baseline), ("tuned", self.tuned))
            },
            "unused_prompts": {name: list(prompts) for name, prompts in self.unused_prompts.items()},
            "settings": {"k": list(self.ks), "store": self.store, "depth": DEPTH, "seed": self.seed},
            **self.main.to_json(),
            "guards": {name: guard.to_json() for name, guard in self.guards.items()},
            "smoke_test": self.smoke_test.to_json() if self.smoke_test else None,
            "truncation": asdict(self.truncation) if self.truncation else None,
            "tokens_per_answer": self.tokens_per_answer,
            "proven": self.proven,
            "queries": self.main.query_ranks(),
        }


def check_retrieval(
    baseline: str | Path,
    tuned: str | Path,
    dataset: RetrievalDataset,
    *,
    guards: Mapping[str, RetrievalDataset] | None = None,
    ks: Sequence[int] = KS,
    store: StoreName = "faiss",
    cache: str | Path | None = None,
    seed: int = 0,
    say: Say = silent,
) -> CheckReport:
    """Compare two models in DocsGPT's own search.

    Leaves out the questions that either model learned from or was chosen by, according to the digests in its manifest.

    Args:
        baseline: "bundled", a hub name, or a stock or tuned folder; or a server's model, as URL#MODEL.
        tuned: A model folder; one without `embtune.json` is loaded as DocsGPT loads a stock model. Or the folder of
            a query adapter or keywords for a server's model; the server is then queried.
        dataset: Questions, corpus and judgments.
        guards: Name -> further datasets, each with a verdict of its own.
        ks: Cutoffs of the metrics, 1..100.
        store: "langchain" ranks through langchain_community's FAISS, as DocsGPT before 0.19 did.
        cache: Folder that caches vectors; an interrupted check resumes from it.
        seed: Seed of the resampling.
        say: Takes a line of plain text when a server does not answer and is retried.

    Raises:
        EvaluationError: If no question is left, a cutoff is out of range, or a model gives unusable vectors.
        RemoteModelError: If a server cannot be queried.
        ModelFolderError: If a model cannot be found or loaded.
    """
    refuse_no_dataset(**{**(guards or {}), "dataset": dataset})
    if store not in get_args(StoreName):
        raise ValueError(f"store must be {' or '.join(get_args(StoreName))}; got {store!r}")
    _refuse_cutoffs(ks)
    to_beat = RemoteModel.found(baseline) or CheckedModel.of_base(str(baseline))
    found = RemoteModel.found(tuned) or CheckedModel.of_folder(tuned)
    seen = _seen_digests(found) | _seen_digests(to_beat)
    unseen = _leave_out_seen(dataset, seen)
    guarded = {name: _leave_out_seen(guard, seen) for name, guard in (guards or {}).items()}
    smoke = None if guarded else smoke_test(dataset.corpus)
    with (
        cache_folder(cache) as folder,
        _opened(to_beat, folder, say) as (baseline_side, baseline_model),
        _opened(found, folder, say) as (tuned_side, tuned_model),
    ):

        def both(asked: _Unseen) -> Comparison:
            return compare(baseline_side, tuned_side, asked.dataset, ks=ks, store=store, seed=seed, seen=asked.left_out)

        return CheckReport(
            baseline=to_beat,
            tuned=found,
            main=both(unseen),
            truncation=_audited(tuned_model, dataset),
            smoke_test=both(_Unseen(smoke, 0)) if smoke else None,
            guards={name: both(guard) for name, guard in guarded.items()},
            unused_prompts={"baseline": _unused_prompts(baseline_model), "tuned": _unused_prompts(tuned_model)},
            ks=tuple(ks),
            store=store,
            seed=seed,
        )


@contextmanager
def _opened(model: CheckedModel | RemoteModel, cache: Path, say: Say) -> Iterator[tuple[Side, StockEmbeddings | None]]:
    """Yield a model's side of the comparison, and the loaded model unless it is on a server."""
    if isinstance(model, RemoteModel):
        with closing(model.load(say)) as server:
            if model.needs_reembedding:
                # The server's own chunk vectors, without keywords, are cached: the other side needs them too, and
                # `adapt` has cached them already.
                own = VectorCache(cache, model.as_it_is.document_fingerprint, len(server.probe))
                server.remember_chunks(partial(remembered, cache=own))
            yield Side(server, model.fingerprint, cache, model.document_fingerprint), None
    else:
        loaded = model.load()
        yield model.side(loaded, cache), loaded


def _refuse_cutoffs(ks: Sequence[int]) -> None:
    if not ks or not all(1 <= k <= DEPTH for k in ks):
        raise EvaluationError(f"cutoffs must be 1 to {DEPTH}, got {list(ks)}; set them with --k")
    if missing := set(HEADLINE_KS) - set(ks):
        raise EvaluationError(f"the verdict needs the cutoffs 1 and 10; add {sorted(missing)} to --k")


def _audited(model: StockEmbeddings | None, dataset: RetrievalDataset) -> TruncationAudit | None:
    if model is None:
        return None
    if not isinstance(model, TunedEmbeddings):
        return audit_truncation(model.model, dataset)
    in_windows, adapts = model.reading.windows != "off", model.query_adapter is not None
    return audit_truncation(model.model, dataset, in_windows=in_windows, reading_stays=adapts)


def _unused_prompts(model: StockEmbeddings | None) -> tuple[str, ...]:
    # DocsGPT calls `encode` without naming a prompt, so it only ever uses the default one.
    if model is None:
        return ()
    default = model.model.default_prompt_name
    return tuple(name for name, prompt in model.model.prompts.items() if prompt and name != default)


def _seen_digests(model: CheckedModel | RemoteModel) -> frozenset[str]:
    if model.folder is None or not is_tuned_folder(model.folder):
        return frozenset()
    return seen_digests(read_manifest(model.folder))


class _Unseen(NamedTuple):
    """Questions that no model learned from or was chosen by, and the number of questions left out."""

    dataset: RetrievalDataset
    left_out: int


def _leave_out_seen(dataset: RetrievalDataset, seen: frozenset[str]) -> _Unseen:
    unseen = leave_out(dataset, seen)
    left_out = len(dataset) - len(unseen)
    if not len(unseen):
        raise EvaluationError(
            f"{', '.join(dataset.sources) or 'the dataset'}: a model learned from the "
            f"{counted(left_out, 'question')} given, or was chosen by them, so that they prove nothing; give others"
        )
    return _Unseen(unseen if left_out else dataset, left_out)

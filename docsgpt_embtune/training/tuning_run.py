"""A training run: stages in sequence, each entering candidates for validation to choose from."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from sentence_transformers import SentenceTransformer
from transformers import set_seed

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import Choice, mean_ndcg
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.metrics import QueryScores, joined_scores
from docsgpt_embtune.evaluation.verdict import DECIDING
from docsgpt_embtune.precision import Precision, resolve_precision
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import WindowReader
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.examples import TrainingExamples, build_examples, questions_of
from docsgpt_embtune.training.extras import NO_EXTRAS, Extras
from docsgpt_embtune.training.folds import Fold, FoldVectors
from docsgpt_embtune.training.known_vectors import KnownVectors
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.negatives import mine_negatives, most_mined
from docsgpt_embtune.training.run_folder import seconds_before
from docsgpt_embtune.training.selection import Selection
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.token_teaching import TaughtByTokens, chunks_to_rank, rarity_of_tokens
from docsgpt_embtune.training.trainer import fit
from docsgpt_embtune.training.tuned_model import TunedModel
from docsgpt_embtune.training.validation import HARDEST_PER_QUERY, Pool
from docsgpt_embtune.training.windows import windows_against_beginnings
from docsgpt_embtune.vectors import Vectors
from docsgpt_embtune.wording import Say, counted, silent


@dataclass(eq=False, kw_only=True)
class TuningRun:
    """A model that is tuned in stages; `begin` embeds what a run needs, and makes one.

    Attributes:
        model: From `load_base`; tuned in place.
        validation: Questions to choose by.
        vectors: The model's vectors, as far as they are known.
        precision: What the whole run computes in.
        pools: The validation questions with the chunks that they are ranked over; one pool per fold, if there are any.
        hardest: Unjudged chunks over which a question is ranked: so many by vectors, and so many by BM25.
        groups: Groups of validation questions about the same answer, each one piece of evidence.
        selection: The candidates so far, and the best of them.
        to_beat: Scores that the run must beat in the end.
        keywords: The keywords that candidates are scored with; None without.
        windows: What cuts long chunks into windows; None where they are truncated.
        folds: Folds of the validation questions, if these are trained on, too.
        fold_vectors: The vectors of each fold's questions and chunks, by models that did not learn from it.
        folder: Where the run keeps what it needs to resume; None keeps nothing.
        say: Takes one line of plain text at each step.
        started: Start of the run on the monotonic clock.
        seconds_before: Seconds that the run had taken before it was stopped.
    """

    model: SentenceTransformer
    validation: RetrievalDataset
    vectors: KnownVectors
    precision: Precision
    pools: list[Pool]
    hardest: int
    groups: Sequence[Sequence[str]]
    selection: Selection
    to_beat: QueryScores
    keywords: Keywords | None
    windows: WindowReader | None
    folds: Sequence[Fold]
    fold_vectors: FoldVectors
    folder: Path | None
    say: Say
    started: float
    seconds_before: float

    @classmethod
    def begin(
        cls,
        model: SentenceTransformer,
        validation: RetrievalDataset,
        config: TrainConfig,
        folder: Path | None = None,
        say: Say = silent,
        *,
        leniency: float = 0.0,
        hardest: int = HARDEST_PER_QUERY,
        started: float | None = None,
        folds: Sequence[Fold] = (),
        extras: Extras = NO_EXTRAS,
    ) -> Self:
        """Embed the validation questions and their chunks, score the base, and load what a stopped run left.

        Args:
            model: From `load_base`; tuned in place.
            validation: Questions to choose by; without folds, none of them may be trained on.
            config: Seed and precision of the whole run.
            folder: Where the run keeps what it needs to resume; None keeps nothing.
            say: Takes one line of plain text at each step.
            leniency: How lenient the selection is with later candidates, as in `Selection`.
            hardest: Unjudged chunks over which a question is ranked: so many by vectors, and so many by BM25.
            started: Start of the run on the monotonic clock, if something was done before.
            folds: Folds of the validation questions, if these are trained on, too.
            extras: Keywords and windows that the base serves with, kept for every candidate.
        """
        started = time.monotonic() if started is None else started
        set_seed(config.seed)
        precision = resolve_precision(config.precision, model.device)
        say(f"computing   in {precision} on {model.device}")
        vectors = KnownVectors(Encoder(model, precision))
        pools = [_pool_of(asked, vectors, hardest) for asked in ([fold.asked for fold in folds] or [validation])]
        baseline = _score(pools, vectors, extras)
        pool = counted(len(_ranked(pools)), "chunk")
        say(f"baseline    validation {DECIDING} {mean_ndcg(baseline):.3f} (a pool of {pool})")
        groups = groups_by_answer(validation)
        selection = Selection(
            baseline, model, lambda: run.score(*run.pools), say, groups, folder=folder, leniency=leniency
        )
        selection.resume()
        run = cls(
            model=model,
            validation=validation,
            vectors=vectors,
            precision=precision,
            pools=pools,
            hardest=hardest,
            groups=groups,
            selection=selection,
            to_beat=baseline,
            keywords=extras.keywords,
            windows=extras.windows,
            folds=folds,
            fold_vectors=FoldVectors(folder / "folds" if folder else None),
            folder=folder,
            say=say,
            started=started,
            seconds_before=seconds_before(folder),
        )
        return run

    @property
    def ranked(self) -> set[str]:
        """The texts of all chunks that validation ranks."""
        return _ranked(self.pools)

    def pool_of(self, dataset: RetrievalDataset) -> Pool:
        """Choose the chunks that these questions are ranked over; the model must still have the base's weights."""
        return _pool_of(dataset, self.vectors, self.hardest)

    def score(self, *pools: Pool, extras: Extras | None = None) -> QueryScores:
        """Score the model's current weights, with keywords and windows.

        Args:
            *pools: Questions, and the chunks that they are ranked over.
            extras: Keywords and windows to use in place of those that the run has chosen so far.
        """
        return _score(pools, self.vectors, extras or Extras(self.keywords, self.windows))

    def unseen_vectors(self) -> list[tuple[Vectors, Vectors]]:
        """Return each pool's vectors, of questions and chunks, by the best candidate; in folds, by the fold's own."""
        best = self.selection.kept.name if self.selection.kept else ""
        return [
            self.fold_vectors.load(number, best)
            if self.fold_vectors.has(number, best)
            else _embedded(pool, self.vectors, self.windows)
            for number, pool in enumerate(self.pools)  # a candidate without fold vectors learned from no question
        ]

    def read_in_windows(self, reader: WindowReader, asked: Sequence[RetrievalDataset], *, always: bool) -> None:
        """Read long chunks in windows from now on, if the base model then answers these questions better.

        The model must still have the base's weights, so that training questions are as good evidence as validation
        questions.

        Args:
            reader: Cuts chunks into windows.
            asked: Questions to decide by.
            always: Read in windows whatever the questions show.
        """
        if not always:
            judgment = windows_against_beginnings(asked, reader, self.vectors.embed)
            found = judgment.differences[DECIDING]
            so = "are read in windows" if judgment.verdict == "improved" else "stay cut off"
            self.say(
                f"windows     {DECIDING} {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}) on "
                f"{counted(judgment.queries, 'question')} with the base model: long chunks {so}"
            )
            if judgment.verdict != "improved":
                return
        self.windows = reader
        scores = self.score(*self.pools)
        if not self.selection.candidates:  # a resumed run has entered it already
            self.selection.enter("windows", scores)

    def train(self, number: int, stage: Stage) -> None:
        """Train on a stage's questions from the weights that the stage starts with, and enter every epoch.

        Args:
            number: Number of the stage, from 0; one that a killed run had finished is skipped.
            stage: The stage to run.

        Raises:
            TrainingError: If bad chunks are needed and none can be mined, or the loss is not finite.
        """
        if number < self.selection.finished_stages:
            return
        in_folds = self._cross_validate(stage) if stage.asks_folds else {}
        self.selection.begin_stage()
        mined = self._mine(stage) if stage.mines else {}
        count = sum(map(len, mined.values()))
        if mined:
            asked = counted(len(mined), "question")
            self.say(f"mined       {counted(count, 'bad chunk')} for {asked} that had too few")
        examples, loss = self._lesson(stage, mined)
        fit(
            self.model,
            examples,
            stage.config,
            self.precision,
            loss=loss,
            at_epoch_end=partial(self._enter_epoch, stage, in_folds),
            goes_on=partial(self._holds_up, stage) if stage.may_be_given_up else None,
            checkpoints=self.folder / f"stage-{number}" if self.folder else None,
            name=stage.name,
        )
        if stage.share < 1:
            self.selection.go_back(stage.share)
            self._enter(f"{stage.name}, {stage.share:.0%} of the way", in_folds)
        if stage.averages:
            self.selection.go_back(0.5)
            self._enter(stage.mean_name, in_folds)
        self.selection.finish_stage(mined=count, passes_on=stage.passes_on)

    def _lesson(
        self, stage: Stage, mined: Mapping[str, Sequence[str]]
    ) -> tuple[TrainingExamples, TaughtByTokens | None]:
        """Return what a stage learns from, and the loss to learn by if it is not the config's."""
        questions = questions_of(stage.questions, mined)
        if not stage.by_tokens:
            return build_examples(questions, stage.config.loss), None
        rarity = rarity_of_tokens(self.model, list(stage.questions.corpus.values()))
        return chunks_to_rank(questions), TaughtByTokens(self.model, rarity, self.precision)

    def _enter_epoch(self, stage: Stage, in_folds: Mapping[str, QueryScores], epoch: int) -> None:
        if stage.share == 1:
            self._enter(stage.epoch_name(epoch), in_folds)

    def _enter(self, candidate: str, in_folds: Mapping[str, QueryScores]) -> None:
        if not in_folds or candidate in in_folds:  # folds are scored only after their last epoch
            self.selection.enter(candidate, in_folds.get(candidate))

    def _cross_validate(self, stage: Stage) -> dict[str, QueryScores]:
        """For each fold, train on the others and score the candidates on the fold: candidate -> scores."""
        candidates = [stage.epoch_name(stage.config.epochs), *([stage.mean_name] if stage.averages else [])]
        for number in range(len(self.folds)):
            if not self.fold_vectors.has(number, candidates[-1]):
                self._train_without(number, stage, candidates)
        return {
            candidate: joined_scores(
                pool.score(*self.fold_vectors.load(number, candidate)) for number, pool in enumerate(self.pools)
            )
            for candidate in candidates
        }

    def _train_without(self, number: int, stage: Stage, candidates: Sequence[str]) -> None:
        """Train on the other folds, and keep the candidates' vectors of this fold's questions and chunks."""
        learned = [query_id for query_id in self.folds[number].learned if query_id in stage.questions.queries]
        stage = replace(stage, questions=stage.questions.subset(learned))
        self.selection.begin_stage()
        if learned:  # with time for a few questions only, all may be of this fold
            mined = self._mine(stage) if stage.mines else {}
            examples = build_examples(questions_of(stage.questions, mined), stage.config.loss)
            name = f"{stage.name} {number + 1}/{len(self.folds)}"
            fit(self.model, examples, stage.config, self.precision, name=name)
        for place, candidate in enumerate(candidates):
            if place:
                self.selection.go_back(0.5)
            self.fold_vectors.keep(number, candidate, *_embedded(self.pools[number], self.vectors, self.windows))

    def _holds_up(self, stage: Stage) -> bool:
        holds_up = self.selection.holds_up(f"{stage.name}, early")
        if not holds_up:
            self.say(f"{stage.name:<11} given up: validation has fallen")
        return holds_up

    def _mine(self, stage: Stage) -> dict[str, tuple[str, ...]]:
        dataset = stage.questions
        # Encode in the same batches as when these weights were scored: in bf16 a vector depends on the texts in its
        # batch, and a resumed run must mine the same chunks.
        for pool in self.pools:
            _embedded(pool, self.vectors, self.windows)
        mined = mine_negatives(
            dataset,
            self.vectors.embed(dataset.queries.values()),
            self.vectors.embed(dataset.corpus.values()),
            per_good=stage.config.negatives,
            most=most_mined(stage.config),
            ceiling=stage.ceiling,
            keywords=retrieve_bm25(dataset) if stage.config.negatives > 1 else None,
            chunk_of=stage.chunk_of,
        )
        if stage.config.loss == "online-contrastive" and not (dataset.irrelevant_docs or mined):
            raise TrainingError(
                f"no bad chunks are given and none could be mined from {len(dataset.corpus)} chunks; give the whole "
                "corpus, or bad chunks, or --loss multiple-negatives-ranking"
            )
        return mined

    def result(self, material: Material, *, evidence_needed: bool) -> TunedModel:
        """Load the best candidate's weights into the model and return the result of the run.

        Args:
            material: What the run was given, for the result to hold.
            evidence_needed: As in `TunedModel`.
        """
        chosen, candidates = self.selection.restore_chosen(), self.selection.candidates
        tried = [candidate.scores for candidate in candidates]
        return TunedModel(
            model=self.model,
            candidates=candidates,
            chosen=chosen,
            choice=Choice(self.to_beat, tried, chosen.scores, self.groups),
            preferred=self.selection.kept is not None,
            evidence_needed=evidence_needed,
            windows="mean" if self.windows else "off",
            keywords=self.keywords,
            precision=self.precision,
            mined=self.selection.mined,
            seconds=self.seconds_before + time.monotonic() - self.started,
            material=material,
        )


def _pool_of(dataset: RetrievalDataset, vectors: KnownVectors, hardest: int) -> Pool:
    embed = vectors.embed
    return Pool.of_the_hardest(dataset, embed(dataset.queries.values()), embed(dataset.corpus.values()), hardest)


def _ranked(pools: Sequence[Pool]) -> set[str]:
    return {text for pool in pools for text in pool.chunks}


def _score(pools: Sequence[Pool], vectors: KnownVectors, extras: Extras) -> QueryScores:
    """Score each pool's questions by a model's vectors, with keywords and windows."""
    return joined_scores(_score_one(pool, vectors, extras) for pool in pools)


def _score_one(pool: Pool, vectors: KnownVectors, extras: Extras) -> QueryScores:
    query_embeddings, chunk_embeddings = _embedded(pool, vectors, extras.windows)
    if keywords := extras.keywords:
        query_embeddings = keywords.beside(query_embeddings, keywords.of_questions(pool.queries))
        chunk_embeddings = keywords.beside(chunk_embeddings, keywords.of_documents(pool.chunks))
    return pool.score(query_embeddings, chunk_embeddings)


def _embedded(pool: Pool, vectors: KnownVectors, windows: WindowReader | None) -> tuple[Vectors, Vectors]:
    embed = partial(vectors.embed, show_progress=False)  # a fit may be under way, with its own bar
    chunk_embeddings = windows.encode(pool.chunks, embed) if windows else embed(pool.chunks)
    return embed(pool.queries), chunk_embeddings

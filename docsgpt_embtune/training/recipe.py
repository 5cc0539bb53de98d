"""The two recipes of a run: one loss with the settings given, or stages among which validation chooses."""

import math
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.corpus_questions import questions_from_corpus
from docsgpt_embtune.data.dataset import RetrievalDataset, refuse_no_dataset
from docsgpt_embtune.data.split import groups_by_answer
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.truncation import parts_read
from docsgpt_embtune.evaluation.verdict import DECIDING, FEWEST_TO_JUDGE, judge
from docsgpt_embtune.precision import resolve_precision
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.reading import WindowReader, Windows
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.extras import NO_EXTRAS, Extras
from docsgpt_embtune.training.folds import folds_of
from docsgpt_embtune.training.keywords.choice import GuardsHold, put_usual_keywords, weigh_keywords
from docsgpt_embtune.training.keywords.weights import ignoring_keyword_hits
from docsgpt_embtune.training.large_corpora import as_time_allows, with_same_held_out_questions
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.planning import make_plan, may_try_windows, stages_in_time
from docsgpt_embtune.training.selection import Weights, copy_of_weights, drawn_towards
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.token_teaching import (
    MOST_ASKED_BY_TOKENS,
    RANKED_FOR_ONE,
    SHARE_BY_TOKENS,
    can_be_taught_by_tokens,
)
from docsgpt_embtune.training.tuned_model import TunedModel
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.training.windows import Pieces, asked_of_pieces, cut_into_windows
from docsgpt_embtune.wording import Say, counted, silent

KeywordChoice = Literal["auto", "narrow", "off"]
# Chosen on the validation questions of one manual and of the bundled sample. One hard negative gains most of what
# several do, in two thirds of the time. The learning rate suits DocsGPT's default model, too (all-mpnet-base-v2, 12
# layers): on 148 of the manual's training questions nDCG@10 went from .480 to .570, and with 2e-5 to .572.
RANKING = TrainConfig(loss="multiple-negatives-ranking", batch_size=32, learning_rate=5e-5, negatives=1)
# With few questions, batches are smaller, for at least this many steps, but not below this many rows: a single step
# does next to nothing.
FEWEST_STEPS, FEWEST_ROWS = 4, 8
# A later stage may be this many standard errors below an earlier one on validation and still replace it. On many
# held-out questions, training on people's questions after the corpus's own helped, and forty validation questions
# cannot show that.
LENIENCY = 1.0
# Share of the change in the weights that is kept after training on the chunks' own words, where no person's questions
# choose: questions made of the chunks would prefer all of it. nDCG@10 of people's (training) questions, with keywords
# at a fifth of the score in all columns but the first:
# | chunks | untuned, no keywords | untuned | an eighth | a quarter | half |
# |---|---|---|---|---|---|
# | a television's manual | .477 | .528 | .552 | .574 | .595 |
# | a language's reference | .495 | .514 | .530 | .541 | .554 |
# | a course's questions and answers | .836 | .879 | .901 | .909 | .906 |
# | health agencies' pages | .573 | .602 | .606 | .603 | .561 |
SHARE_OF_CHUNKS_ALONE = 0.25  # `token_teaching` has its own
# Shares of the way from the base to the tuned weights that are tried until the guards hold.
SHARES_OF_THE_WAY = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


@dataclass(frozen=True)
class Automatic:
    """The settings of the automatic recipe.

    Attributes:
        minutes: Time limit of a run, in minutes.
        guards: Questions of other sources, which must not get worse: the weights are drawn back towards the base
            until that holds.
        windows: Whether chunks longer than the model reads are read in windows: "auto" does so where the questions
            show that it helps. Only this package's embeddings class reads in windows.
        keywords: Whether keywords may stand beside the model's numbers in each vector, where validation prefers that:
            "narrow" stays within the width that DocsGPT assumes for a remote model, "auto" goes beyond it where that
            pays. Only this package's embeddings class adds them.

    Raises:
        TypeError: If a guard is no dataset.
        ValueError: If the time is not positive and finite, or the value of windows or keywords is unknown.
    """

    minutes: float = 20.0
    guards: Mapping[str, RetrievalDataset] = field(default_factory=dict)
    windows: Literal["auto"] | Windows = "auto"
    keywords: KeywordChoice = "auto"

    def __post_init__(self) -> None:
        """Check what may come from a command line, and what somebody may take for a guard."""
        if not isinstance(self.guards, Mapping):
            raise TypeError(f"guards must map names to datasets, and is {self.guards!r:.80}")
        refuse_no_dataset(**self.guards)
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes must be above 0, and not endless; got {self.minutes!r}")
        if self.windows not in ("auto", *get_args(Windows)):
            raise ValueError(f"windows must be auto, {' or '.join(get_args(Windows))}; got {self.windows!r}")
        if self.keywords not in get_args(KeywordChoice):
            raise ValueError(f"keywords must be {' or '.join(get_args(KeywordChoice))}; got {self.keywords!r}")


def tune_as_told(
    model: SentenceTransformer,
    material: Material,
    config: TrainConfig,
    folder: Path | None = None,
    say: Say = silent,
    *,
    extras: Extras = NO_EXTRAS,
) -> TunedModel:
    """Tune a model in place with one loss, and leave it at its best epoch by validation nDCG@10.

    Args:
        model: From `load_base`.
        material: Training questions, and validation questions to choose the epoch by.
        config: Settings.
        folder: Where the run stores what it needs to resume, and resumes from; None stores nothing.
        say: Takes one line of plain text before each stage, and after each epoch.
        extras: Keywords and windows that the base serves with; they stay as they are.

    Raises:
        TrainingError: If bad chunks are needed and none can be mined, or the loss is not finite.
    """
    training, validation = material.training, material.validation
    assert training is not None, "it learns from questions"
    assert validation is not None, "and not in folds"
    run = TuningRun.begin(model, validation, config, folder, say, extras=extras)
    some_given = bool(training.irrelevant_docs)
    # Online-contrastive loss cannot learn without bad chunks; ranking needs equally many in every row, if any.
    mines = config.loss == "online-contrastive" or (config.loss == "multiple-negatives-ranking" and some_given)
    run.train(0, Stage("questions", training, config, mines))
    return run.result(material, evidence_needed=False)


def tune_automatically(
    model: SentenceTransformer,
    material: Material,
    config: TrainConfig,
    automatic: Automatic,
    *,
    reader: WindowReader | None = None,
    extras: Extras = NO_EXTRAS,
    folder: Path | None = None,
    say: Say = silent,
) -> TunedModel:
    """Tune a model in place on the corpus alone, then on the questions, as far as validation prefers it.

    Args:
        model: From `load_base`.
        material: What to learn from and to choose by, over one corpus. Without validation questions, the run
            cross-validates on the training questions, or holds some of them out where there is no time for that. Folds
            and guards cannot be combined.
        config: Widths, seed, precision, device and `report_to`; the recipe sets the rest.
        automatic: Time limit, and what may be tried.
        reader: Cuts chunks that are too long for the model into windows; None reads only their beginnings.
        extras: Keywords and windows that the base serves with. The run starts without them and chooses its own, but
            must beat the base with them.
        folder: Where the run stores what it needs to resume, and resumes from; None stores nothing.
        say: Takes one line of plain text for the plan and for each step.

    Raises:
        TrainingError: If there is nothing to learn from, or the loss is not finite.
    """
    started = time.monotonic()
    if reader is not None and not _may_need_windows(reader, material, automatic):
        reader = None
    encode = Encoder(model, resolve_precision(config.precision, model.device))
    part = as_time_allows(
        material, encode, automatic.minutes, config.seed, whole_chunks=reader is not None, folder=folder, say=say
    )
    run = _begin(model, part, config, folder, say, started)
    if extras:
        _require_beating_base_as_served(run, extras, part.by_own_words)
    guards_hold = _watch(run, part.guards, extras)
    always = automatic.windows == "mean"
    if reader is not None and (always or may_try_windows(run, part.chunks, automatic.minutes)):
        run.read_in_windows(reader, part.asked, always=always)
    base = copy_of_weights(model)
    _train(run, part, config, automatic.minutes)
    if material.guards:
        _draw_back(run, base, guards_hold)
    if automatic.keywords != "off":
        if config.widths:
            run.say("keywords    left out: vectors that are to be cut have no place for them")
        elif part.asked_by_nobody:
            put_usual_keywords(run, material.chunks, part.by_own_words, guards_hold)
        else:
            weigh_keywords(run, material.chunks, part.training, guards_hold, wide=automatic.keywords == "auto")
    return run.result(with_same_held_out_questions(material, part, config.seed), evidence_needed=True)


def _may_need_windows(reader: WindowReader, material: Material, automatic: Automatic) -> bool:
    """Tell whether windows are allowed, and any good chunk is longer than the model reads."""
    return automatic.windows != "off" and reader.cuts_any(
        text for questions in material.asked for text in questions.good_texts()
    )


def _begin(
    model: SentenceTransformer, material: Material, config: TrainConfig, folder: Path | None, say: Say, started: float
) -> TuningRun:
    """Begin a run that chooses by validation questions, or by cross-validation on the training questions."""
    asked = material.to_choose_by
    in_folds = material.validation is None
    if in_folds:
        say(f"no --val given: each of {counted(len(asked), 'question')} is asked of a model that did not learn from it")
    return TuningRun.begin(
        model,
        asked,
        config,
        folder,
        say,
        leniency=LENIENCY,
        hardest=material.hardest,
        started=started,
        folds=folds_of(asked) if in_folds else (),
    )


def _require_beating_base_as_served(run: TuningRun, extras: Extras, by_own_words: Collection[str]) -> None:
    """Set the scores that the run must beat to those of the base with its keywords and windows.

    Args:
        run: Not yet trained: the model must still have the base's weights.
        extras: Keywords and windows that the base serves with.
        by_own_words: doc_ids of the chunks that keywords find whatever they are worth, as in `put_usual_keywords`.
    """
    run.to_beat = run.score(*run.pools, extras=extras)
    if by_own_words:
        run.to_beat = ignoring_keyword_hits(run.to_beat, run.selection.baseline, run.validation, by_own_words)
    run.say(f"            {DECIDING} {mean_ndcg(run.to_beat):.3f} as it serves, with {extras}: that is to be beaten")


def _train(run: TuningRun, material: Material, config: TrainConfig, minutes: float) -> None:
    """Run the stages that there is time for."""
    stages = _stages(run, material, config)
    if not stages:
        raise TrainingError(
            f"none of the {len(run.validation.corpus)} chunks is long enough to take a question from; give --train"
        )
    plan = make_plan(run, stages, minutes)
    for line in plan.describe(minutes):
        run.say(f"plan        {line}")
    for number, stage in enumerate(stages_in_time(plan, run, minutes)):
        run.train(number, stage)


def _stages(run: TuningRun, material: Material, config: TrainConfig) -> list[Stage]:
    """List the stages: questions made of the words of chunks that nobody asks about, then people's questions.

    Questions without bad chunks are trained on twice, each time from the weights that the chunks' stage passed on: once
    with mined chunks that are probably no answers, and once with the hardest.
    """
    ranking = replace(
        RANKING,
        widths=config.widths,
        seed=config.seed,
        precision=config.precision,
        device=config.device,
        report_to=config.report_to,
    )
    pieces, training = _in_pieces(run, material)
    own_words = _own_words(run, material, pieces, training, config.seed)
    stages = [_of_chunks(run, material, own_words, pieces, ranking)] if len(own_words) else []
    if training is not None:
        stages += _of_people(training, pieces, ranking, asks_folds=bool(run.folds))
    return stages


def _in_pieces(run: TuningRun, material: Material) -> tuple[Pieces, RetrievalDataset | None]:
    """Return the chunks as the run reads them, and the training questions, if any, judged on these pieces."""
    training = material.training
    chunks = (training or run.validation).corpus
    if run.windows is None:
        return Pieces(chunks), training
    pieces = cut_into_windows(chunks, run.windows)
    if training is None:
        return pieces, None
    embed = run.vectors.embed
    return pieces, asked_of_pieces(training, pieces, embed(training.queries.values()), embed(pieces.corpus.values()))


def _own_words(
    run: TuningRun, material: Material, pieces: Pieces, training: RetrievalDataset | None, seed: int
) -> RetrievalDataset:
    """Make a question of a few own words of each piece that no question is about."""
    # In folds, every chunk is included: those that a fold is asked about must not be the ones left out.
    answered = training.relevant_docs.values() if training is not None and not run.folds else ()
    answers = {piece_id for piece_ids in answered for piece_id in piece_ids}
    unasked = {
        piece_id: text
        for piece_id, text in pieces.corpus.items()
        if piece_id not in answers and pieces.chunk(piece_id) not in material.by_own_words
    }
    # Words beyond what the model reads of a chunk teach it nothing about the chunk.
    read = parts_read(run.model, unasked) if material.asks_chunks else {}
    return replace(questions_from_corpus(read, seed, of_prose=material.asked_by_nobody), corpus=pieces.corpus)


def _of_chunks(
    run: TuningRun, material: Material, own_words: RetrievalDataset, pieces: Pieces, ranking: TrainConfig
) -> Stage:
    # No ceiling: a neighbour of a chunk, however alike, does not answer this chunk's words, and the nearest teach most.
    stage = Stage("chunks", own_words, ranking, mines=True, ceiling=math.inf, chunk_of=pieces.chunk_of)
    if not material.asked_by_nobody:
        return replace(stage, averages=material.training is None, may_be_given_up=True)
    if not can_be_taught_by_tokens(run.model) or ranking.widths:
        return replace(stage, share=SHARE_OF_CHUNKS_ALONE)
    some = own_words.sampled(MOST_ASKED_BY_TOKENS, random.Random(ranking.seed))
    ranked = replace(ranking, negatives=RANKED_FOR_ONE)
    return replace(stage, questions=some, config=ranked, by_tokens=True, share=SHARE_BY_TOKENS)


def _of_people(training: RetrievalDataset, pieces: Pieces, ranking: TrainConfig, *, asks_folds: bool) -> list[Stage]:
    rows = max(FEWEST_ROWS, len(training) // FEWEST_STEPS)
    config = replace(ranking, batch_size=min(ranking.batch_size, rows))
    stage = Stage(
        "questions", training, config, mines=True, averages=True, asks_folds=asks_folds, chunk_of=pieces.chunk_of
    )
    if 2 * len(training.irrelevant_docs) >= len(training):  # there is little left to mine
        return [replace(stage, passes_on=False)]
    # No ceiling: a chunk that outranks the good one is either the mistake to learn from or an answer that nobody
    # marked. On validation this gained up to .04 of nDCG@10 on the manual and lost .02 on crowd workers' questions.
    hardest = replace(stage, name="hardest", ceiling=math.inf, if_time_allows=True)
    return [replace(stage, passes_on=False), hardest]


def _watch(run: TuningRun, guards: Mapping[str, RetrievalDataset], extras: Extras) -> GuardsHold:
    """Return a function that tells whether every guard set is as good as with the base model, chance aside.

    Weights without keywords are compared with the base's weights alone; with keywords, with the base as it serves.
    """
    pools = {name: run.pool_of(guard) for name, guard in guards.items()}
    alone = {name: run.score(pool) for name, pool in pools.items()}
    as_served = {name: run.score(pool, extras=extras) for name, pool in pools.items()} if extras else alone
    groups = {name: groups_by_answer(guard) for name, guard in guards.items()}
    for name, of_guard in groups.items():
        if len(of_guard) < FEWEST_TO_JUDGE:
            run.say(f"guard       {name} guards nothing: it takes {FEWEST_TO_JUDGE} answers to show that any got worse")

    def guards_hold(tried: str) -> bool:
        baselines = as_served if run.keywords else alone
        verdicts = {
            name: judge(baselines[name], run.score(pool), groups=groups[name]).verdict for name, pool in pools.items()
        }
        for name, verdict in verdicts.items():
            run.say(f"guard       {name}, {tried}: {'worse' if verdict == 'worse' else 'holds'}")
        return "worse" not in verdicts.values()

    return guards_hold


def _draw_back(run: TuningRun, base: Weights, guards_hold: GuardsHold) -> None:
    """Draw the best weights back towards the base until the guards hold, and reject those that do not hold."""
    run.selection.restore_chosen()  # even if it does not beat the base: with `keep_worse` it is written all the same
    tuned = copy_of_weights(run.model)
    for share in SHARES_OF_THE_WAY:
        run.model.load_state_dict(drawn_towards(base, tuned, share))
        name = f"drawn back to {share:.0%}" if share < 1 else "not drawn back"
        if guards_hold(name):
            if share < 1:
                run.selection.reject_kept(base)
                _enter_last(run, name)
            return
    run.windows = None  # even the base's weights do not hold with chunks read in windows
    run.selection.reject_kept(base)
    _enter_last(run, "the base itself")


def _enter_last(run: TuningRun, name: str) -> None:
    run.selection.enter_last({name: run.score(*run.pools)}, name)

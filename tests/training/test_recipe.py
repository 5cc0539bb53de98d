"""The automatic recipe on a tiny model: real trainer, real files, real kills."""

import json
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.corpus_questions import questions_of_both_kinds
from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.serving.reading import WindowReader
from docsgpt_embtune.training import activations, negatives, planning, recipe, trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.keywords import choice as keyword_choice
from docsgpt_embtune.training.keywords.choice import put_usual_keywords, weigh_keywords
from docsgpt_embtune.training.keywords.weights import WEIGHTS, WEIGHTS_BESIDE_TAUGHT
from docsgpt_embtune.training.known_vectors import KnownVectors
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.selection import Selection, copy_of_weights, drawn_towards
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.summary import summary
from docsgpt_embtune.training.train import TrainingReport, train
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.training.validation import score_vectors

from ..sample_questions import NOUNS, VERBS
from .recipe_runs import AUTOMATIC, CONFIG, CORPUS, TRAINING, VALIDATION, dataset, shuffled, stopping


def what_the_base_finds_first(folder) -> RetrievalDataset:
    """Let that be the truth, so that any large change of the model is for the worse."""
    base = SentenceTransformer(str(folder), device="cpu")
    texts, doc_ids = [f"the {noun} was {verb}" for noun in NOUNS for verb in VERBS], list(CORPUS)
    nearest = (base.encode(texts) @ base.encode(list(CORPUS.values())).T).argmax(axis=1)
    relevant_docs = {text: (doc_ids[row],) for text, row in zip(texts, nearest, strict=True)}
    return RetrievalDataset({text: text for text in texts}, CORPUS, relevant_docs)


pytestmark = pytest.mark.usefixtures("quick_learning")


def tune(base, out, training=TRAINING, validation=VALIDATION, automatic=AUTOMATIC, **options):
    return train(training, validation, out, base=str(base), automatic=automatic, **{"config": CONFIG, **options})


@pytest.fixture
def tuned(tiny_base_folder, tmp_path):
    return partial(tune, tiny_base_folder, tmp_path / "tuned")


@dataclass(frozen=True)
class RunThatSpoke:
    report: TrainingReport
    said: list[str]


@pytest.fixture(scope="module")
def undisturbed(quick_learning, tiny_base_folder, tmp_path_factory):
    said: list[str] = []
    return RunThatSpoke(tune(tiny_base_folder, tmp_path_factory.mktemp("whole") / "tuned", say=said.append), said)


def test_every_chunk_then_the_questions_and_the_better_is_written(undisturbed):
    report, said = undisturbed.report, undisturbed.said
    names = [candidate.name for candidate in report.tuned.candidates]
    assert names[:6] == ["chunks, early", "chunks", "questions", "questions, mean", "hardest", "hardest, mean"]
    assert report.tuned.chosen in report.tuned.candidates
    assert report.manifest["training"]["recipe"] == "auto"
    assert report.manifest["validation"]["verdict"] == "improved"
    plan = [line for line in said if line.startswith("plan")]
    assert len(plan) == 4
    assert said.index(plan[-1]) < next(n for n, line in enumerate(said) if line.startswith("mined"))


def test_run_without_room_recomputes_activations_and_says_so(tuned, monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(activations, "CONTAINER_LIMITS", (tmp_path / "memory.max",))
    said: list[str] = []
    report = tuned(automatic=Automatic(keywords="off"), say=said.append)
    assert report.manifest["validation"]["verdict"] == "improved"
    last = [line for line in said if line.startswith("plan")][-1]
    assert last.endswith(", with activations recomputed to fit (slower)")


def test_static_base_is_tuned_too(tiny_base_folder, tmp_path):
    tokens = Tokenizer.from_file(str(tiny_base_folder / "tokenizer.json"))
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_dim=32), Normalize()], device="cpu").save(
        str(tmp_path / "static")
    )
    said: list[str] = []
    report = train(
        TRAINING,
        VALIDATION,
        tmp_path / "tuned",
        base=str(tmp_path / "static"),
        config=CONFIG,
        automatic=AUTOMATIC,
        say=said.append,
    )
    assert report.folder is not None
    assert "GiB of memory at its peak" in [line for line in said if line.startswith("plan")][-1]


def test_stage_that_makes_validation_fall_is_given_up_early(monkeypatch):
    said: list[str] = []
    run = TuningRun(load_base(resolve_base("bundled"), "cpu"), VALIDATION, CONFIG, say=said.append)
    ruinous = TrainConfig(loss="multiple-negatives-ranking", learning_rate=0.3, batch_size=4, precision="fp32")
    seen: list[int] = []
    monkeypatch.setattr(trainer.ProgressBar, "on_step_end", lambda self, args, state, *_, **__: seen.append(1))
    run.train(0, Stage("chunks", TRAINING, ruinous, mines=False, may_be_given_up=True))
    assert len(seen) == 4  # of 15
    assert [candidate.name for candidate in run.selection.candidates] == ["chunks, early"]
    assert run.selection.kept is None
    assert said[-1] == "chunks      given up: validation has fallen"
    assert run.selection.finished_stages == 1


def test_stage_that_moves_no_answer_is_not_given_up(tiny_base_folder):
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    assert run.selection.holds_up("as the base model")


def test_stage_that_does_not_pass_on_leaves_the_next_its_own_beginning(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun(model, VALIDATION, CONFIG)
    begun_with = copy_of_weights(model)
    config = replace(recipe.RANKING, precision="fp32")
    run.train(0, Stage("questions", TRAINING, config, mines=False, passes_on=False))
    run.selection.begin_stage()
    assert run.selection.kept is not None
    assert all(torch.equal(tensor, begun_with[name]) for name, tensor in model.state_dict().items())
    run.train(1, Stage("hardest", TRAINING, config, mines=False))
    run.selection.begin_stage()
    assert not all(torch.equal(tensor, begun_with[name]) for name, tensor in model.state_dict().items())


def test_texts_are_encoded_once_for_each_state_of_the_weights(tiny_base_folder):
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    mining = Stage("questions", TRAINING, replace(recipe.RANKING, precision="fp32"), mines=True)
    assert not run.vectors.unknown(CORPUS.values())
    run.train(0, replace(mining, passes_on=False, averages=True))
    run.selection.begin_stage()
    assert not run.vectors.unknown(CORPUS.values())
    run.selection.restore()
    assert not run.vectors.unknown(run.ranked)  # as they were scored
    assert set(run.vectors.unknown(CORPUS.values())) == set(CORPUS.values()) - set(run.ranked)


def test_known_vectors_are_the_models(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    encode = Encoder(model, "fp32")
    vectors = KnownVectors(encode)
    texts = [*CORPUS.values()][:5]
    before = vectors.embed(texts)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    after = vectors.embed(texts[::-1])[::-1]
    assert np.allclose(after, encode(texts), atol=1e-6)
    assert not np.allclose(after, before, atol=1e-3)
    assert not vectors.unknown(texts)


BEYOND = " and what follows is only filling" * 4  # more than the 64 tokens that the tiny model reads


def with_answers_beyond(questions: RetrievalDataset) -> RetrievalDataset:
    """Let the chunks answer at their end, where the model does not read."""
    return replace(questions, corpus={doc_id: f"{BEYOND} {' '.join([text] * 5)}" for doc_id, text in CORPUS.items()})


def test_long_chunks_are_read_in_windows_where_that_finds_more():
    facts = {
        f"{place} {number}": f"{place} has {number} bakers." for place in ("Ulm", "Rome", "Oslo") for number in range(9)
    }
    filling = "This page was printed for the archive and may be shown to visitors. " * 20  # 260 tokens
    questions = RetrievalDataset(
        {fact: f"Which place has {fact.split()[1]} bakers? Is it {fact.split()[0]}?" for fact in facts},
        {fact: filling + text for fact, text in facts.items()},
        {fact: (fact,) for fact in facts},
    )
    base = resolve_base("bundled")
    run = TuningRun(load_base(base, "cpu"), questions, CONFIG)
    run.read_in_windows(WindowReader(base.folder, 256), [questions], always=False)
    assert run.windows is not None
    assert run.selection.kept is not None
    assert run.selection.kept.name == "windows"


def test_windows_that_training_read_in_are_served(tuned):
    training, validation = with_answers_beyond(TRAINING), with_answers_beyond(VALIDATION)
    report = tuned(training, validation, automatic=Automatic(windows="mean", keywords="off"), keep_worse=True)
    assert report.tuned.candidates[0].name == "windows"
    assert report.manifest["serving"]["reading"] == {"max_seq_length": 64, "windows": "mean"}
    assert mean_ndcg(report.tuned.chosen.scores) > mean_ndcg(report.tuned.candidates[0].scores)
    served = TunedEmbeddings(str(report.folder))
    short, long = "a log is kept", next(iter(with_answers_beyond(TRAINING).corpus.values()))
    assert np.allclose(served.embed_documents([short])[0], served.embed_query(short), atol=1e-5)
    assert not np.allclose(served.embed_documents([long])[0], served.embed_query(long), atol=1e-2)


def test_long_chunks_stay_cut_off_where_told(tuned):
    training, validation = with_answers_beyond(TRAINING), with_answers_beyond(VALIDATION)
    report = tuned(training, validation, automatic=Automatic(windows="off", keywords="off"), keep_worse=True)
    assert "serving" not in report.manifest
    assert "windows" not in [candidate.name for candidate in report.tuned.candidates]


def test_long_chunks_stay_cut_off_where_windows_find_nothing(tuned):
    padded = {doc_id: text + BEYOND for doc_id, text in CORPUS.items()}
    said: list[str] = []
    training, validation = replace(TRAINING, corpus=padded), replace(VALIDATION, corpus=padded)
    report = tuned(training, validation, automatic=Automatic(keywords="off"), keep_worse=True, say=said.append)
    assert report.tuned.windows == "off"
    assert any(line.startswith("windows") and "on 100 questions" in line for line in said)
    assert any(line.startswith("windows") and "stay cut off" in line for line in said)


def test_windows_are_not_tried_where_that_takes_longer_than_there_is_for_reading(tuned):
    training, validation = with_answers_beyond(TRAINING), with_answers_beyond(VALIDATION)
    said: list[str] = []
    in_no_time = Automatic(minutes=1e-4, keywords="off")
    report = tuned(training, validation, automatic=in_no_time, keep_worse=True, say=said.append)
    assert report.tuned.windows == "off"
    (line,) = (line for line in said if line.startswith("windows"))
    assert re.search(r"left out: no time to see .* about \d+ s; it takes --time-budget 1m at least, or", line)
    told = replace(in_no_time, windows="mean")
    assert tuned(training, validation, automatic=told, keep_worse=True).tuned.windows == "mean"


def test_questions_are_learned_by_the_window_that_answers(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    dataset = with_answers_beyond(TRAINING)
    run = TuningRun(model, with_answers_beyond(VALIDATION), CONFIG)
    run.read_in_windows(WindowReader(tiny_base_folder, 64), [], always=True)
    chunks, questions, _ = recipe._stages(run, Material(dataset, VALIDATION), CONFIG)
    for stage in (chunks, questions):
        assert all(len(model.tokenizer(text)["input_ids"]) <= 64 for text in stage.questions.corpus.values())
    for query_id, doc_ids in dataset.relevant_docs.items():
        (piece_id,) = questions.questions.relevant_docs[query_id]
        assert questions.chunk_of.get(piece_id, piece_id) == doc_ids[0]


def test_chunks_that_outrank_the_good_one_are_learned_from(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun(model, VALIDATION, CONFIG)
    *_, hardest = recipe._stages(run, Material(TRAINING, VALIDATION), CONFIG)
    mined = run._mine(hardest)

    def similarity(query_id: str, doc_id: str) -> float:
        query, chunk = run.vectors.embed([TRAINING.queries[query_id], CORPUS[doc_id]])
        return float(query @ chunk)

    assert any(
        similarity(query_id, bad) > similarity(query_id, TRAINING.relevant_docs[query_id][0])
        for query_id, (bad,) in mined.items()
    )


def test_questions_that_come_with_bad_chunks_are_learned_from_once(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun(model, VALIDATION, CONFIG)
    given = replace(TRAINING, irrelevant_docs={f"q-{n}-{v}": (f"{n}-sold",) for n in NOUNS for v in VERBS[:6]})
    stages = recipe._stages(run, Material(given, VALIDATION), CONFIG)
    assert [stage.name for stage in stages] == ["chunks", "questions"]


def test_every_stage_trains_at_the_widths_of_the_run(tiny_base_folder):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun(model, VALIDATION, CONFIG)
    stages = recipe._stages(run, Material(TRAINING, VALIDATION), replace(CONFIG, widths=(8, 16)))
    assert [stage.config.widths for stage in stages] == [(8, 16)] * 3


def test_time_too_short_for_all_questions_takes_a_share_of_each_stage(tuned):
    said: list[str] = []
    tuned(automatic=Automatic(minutes=1e-4), keep_worse=True, say=said.append)
    first, second, _, longer, last = (line for line in said if line.startswith("plan"))
    assert "1. chunks: 4 of 40 questions" in first
    assert f"2. questions: 4 of {len(TRAINING)} questions" in second
    assert longer.endswith("that is longer than allowed, and the least that a run takes here; Ctrl-C stops it")
    assert last.endswith("there is no time for all questions; give a longer --time-budget")


def test_stages_are_cut_down_to_what_time_a_slow_one_left(tuned, monkeypatch):
    late = 0.0

    def train_for_an_hour(run: TuningRun, number: int, stage: Stage) -> None:
        nonlocal late
        train(run, number, stage)
        late += 3600

    train, clock = TuningRun.train, time.monotonic
    monkeypatch.setattr(TuningRun, "train", train_for_an_hour)
    monkeypatch.setattr(planning.time, "monotonic", lambda: clock() + late)
    said: list[str] = []
    report = tuned(automatic=Automatic(minutes=100), keep_worse=True, say=said.append)
    (cut,) = (line for line in said if "times as slow as planned so far" in line)
    assert re.search(rf"questions from \d+ of {len(TRAINING)} questions, hardest left out$", cut)
    assert "hardest" not in [candidate.name for candidate in report.tuned.candidates]


def test_question_with_many_good_chunks_counts_as_many_rows_that_do_not_grow_with_them(tuned):
    every = RetrievalDataset(
        {noun: f"what of the {noun}" for noun in NOUNS}, CORPUS, {n: tuple(f"{n}-{v}" for v in VERBS) for n in NOUNS}
    )
    said: list[str] = []
    tuned(every, automatic=Automatic(minutes=1e-4), keep_worse=True, say=said.append)
    assert "1. questions: 1 of 10 questions" in next(line for line in said if line.startswith("plan"))
    (mined,) = (int(line.split()[1]) for line in said if line.startswith("mined"))
    assert mined <= negatives.MOST_IN_A_ROW


def test_bad_chunks_that_are_given_are_in_the_plan(tiny_base_folder):
    given = replace(
        TRAINING, irrelevant_docs={q: tuple(f"{q[2:].split('-')[0]}-{v}" for v in VERBS[6:]) for q in TRAINING.queries}
    )
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    few, many = (recipe._stages(run, Material(each, VALIDATION), CONFIG)[1] for each in (TRAINING, given))
    pace = planning.Pace(training=1.0, encoding=0.0)
    assert planning._cost(many, run, pace, []).seconds > 2 * planning._cost(few, run, pace, []).seconds


def test_shuffled_labels_are_no_better_than_the_base_and_nothing_is_written(tuned, tmp_path):
    report = tuned(shuffled(TRAINING, 1), shuffled(VALIDATION, 2))
    assert report.folder is None
    assert not report.tuned.improved
    assert not (tmp_path / "tuned").exists()

    def advice(training: RetrievalDataset | None, validation: RetrievalDataset | None) -> str:
        return summary(replace(report, tuned=replace(report.tuned, material=Material(training, validation))))

    assert "could be luck" in summary(report)
    assert "without --val" in advice(TRAINING, VALIDATION)
    assert "more questions, about other answers; or --corpus alone" in advice(TRAINING, None)
    assert "questions of people with --train" in advice(None, VALIDATION)


def test_corpus_alone_trains_and_says_what_validation_was_asked(tuned):
    said: list[str] = []
    report = tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True, say=said.append)
    assert any("as the model's tokens rank them, 2 mined bad chunks each" in line for line in said)
    assert [candidate.name for candidate in report.tuned.candidates] == [
        f"chunks, {recipe.SHARE_BY_TOKENS:.0%} of the way"
    ]
    assert report.manifest["validation"]["asked_by"] == "words of the chunks and sentences cut out of them"
    assert report.manifest["validation"]["queries"] == 30
    assert "training" not in report.manifest["data"]


def test_a_larger_corpus_is_not_followed_further(tuned, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(recipe, "MOST_ASKED_BY_TOKENS", 20)
    tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True, say=said.append)
    assert any(line.startswith("plan        1. chunks: 20 questions, as the model's tokens rank them") for line in said)


def test_vectors_that_are_no_means_of_tokens_learn_a_quarter_of_the_chunks_words(tuned, monkeypatch):
    monkeypatch.setattr(recipe, "can_be_taught_by_tokens", lambda model: False)
    report = tuned(None, None, corpus=CORPUS, automatic=Automatic(keywords="off"), keep_worse=True)
    assert [candidate.name for candidate in report.tuned.candidates] == ["chunks, 25% of the way"]


def test_what_no_person_chose_is_drawn_back_until_opening_words_find_their_chunks(tuned, undisturbed, monkeypatch):
    said: list[str] = []
    verdicts = iter(["worse", "not enough evidence"])
    monkeypatch.setattr(recipe, "judge", lambda *_, **__: SimpleNamespace(verdict=next(verdicts)))
    automatic = Automatic(keywords="off")
    report = tuned(None, None, corpus=CORPUS, automatic=automatic, keep_worse=True, say=said.append)
    guards = [line for line in said if line.startswith("guard")]
    assert guards == [
        "guard       chunks' opening words, not drawn back: worse",
        "guard       chunks' opening words, drawn back to 80%: holds",
    ]
    assert report.tuned.candidates[-1].name == "drawn back to 80%"
    assert not any(line.startswith("guard") for line in undisturbed.said)  # where questions chose


@pytest.fixture
def learned(monkeypatch):
    """The questions that the chunks are learned from by, of each run."""
    learned: list[RetrievalDataset] = []
    real = recipe.questions_from_corpus

    def spy(corpus, seed, **options):
        learned.append(real(corpus, seed, **options))
        return learned[-1]

    monkeypatch.setattr(recipe, "questions_from_corpus", spy)
    return learned


def test_what_validation_asks_by_is_not_learned_from(tuned, learned):
    report = tuned(None, None, corpus=CORPUS, keep_worse=True)
    made = questions_of_both_kinds(CORPUS, CONFIG.seed, count=15)
    assert set(report.tuned.choice.baseline["ndcg@10"]) == set(made.questions.queries)
    assert set(learned[0].corpus) == set(CORPUS) - made.by_own_words
    assert all(made.questions.corpus[doc_id].startswith(text) for doc_id, text in learned[0].corpus.items())


def test_copies_of_chunks_are_asked_for_once_and_learned_from_on_no_side(tuned, learned):
    twice = {**CORPUS, **{f"copy of {doc_id}": text for doc_id, text in CORPUS.items()}}
    report = tuned(None, None, corpus=twice, keep_worse=True)
    made = questions_of_both_kinds(CORPUS, CONFIG.seed, count=15)
    assert set(report.tuned.choice.baseline["ndcg@10"]) == set(made.questions.queries)
    assert set(learned[0].corpus) == set(CORPUS) - made.by_own_words


def test_program_text_alone_is_refused_unless_told(tuned):
    code = {f"f{n}": f"def get_{n}(self):\n    return self._{n}[key_{n}] if key_{n} in x else {n}" for n in range(80)}
    prose = {doc_id: text for doc_id, text in list(CORPUS.items())[:60]}
    with pytest.raises(TrainingError, match="only 60 of 140 chunks looked at have a few words in a row that are prose"):
        tuned(None, None, corpus={**code, **prose})
    assert tuned(None, None, corpus={**code, **prose}, keep_worse=True).folder


def test_nothing_to_learn_from_is_said(tuned):
    with pytest.raises(TrainingError, match="nothing to learn from"):
        tuned(None, None)
    with pytest.raises(TrainingError, match="only the automatic recipe"):
        tuned(None, VALIDATION, automatic=None)


def test_chunks_too_short_to_ask_for_are_nothing_to_learn_from(tuned):
    words = {f"{noun}-{n}": noun for n, noun in enumerate(NOUNS)}
    asked = RetrievalDataset(
        {f"q{noun}": f"which {noun}" for noun in NOUNS},
        words,
        {f"q{noun}": (f"{noun}-{n}",) for n, noun in enumerate(NOUNS)},
    )
    with pytest.raises(TrainingError, match="none of the 10 chunks is long enough"):
        tuned(None, asked)


def test_weights_are_drawn_back_until_the_guards_hold(tuned, monkeypatch, tiny_base_folder):
    monkeypatch.setattr(recipe, "RANKING", replace(recipe.RANKING, learning_rate=1e-2))
    guard = what_the_base_finds_first(tiny_base_folder)
    said: list[str] = []
    guarded = Automatic(guards={"other source": guard}, keywords="off")
    report = tuned(automatic=guarded, keep_worse=True, say=said.append)
    verdicts = [line for line in said if line.startswith("guard")]
    assert verdicts[0] == "guard       other source, not drawn back: worse"
    assert not verdicts[-1].endswith(": worse")
    assert report.tuned.chosen.name.startswith("drawn back to ")
    assert len(report.tuned.candidates) > 1  # what was tried before counts where luck is told from gain
    written = SentenceTransformer(str(report.folder), device="cpu")
    of_guard = score_vectors(guard, *(written.encode(list(texts.values())) for texts in (guard.queries, CORPUS)))
    assert mean_ndcg(of_guard) == pytest.approx(1.0, abs=0.1)


def test_run_that_is_stopped_while_it_draws_back_does_so_again(tiny_base_folder, tmp_path):
    model = load_base(resolve_base(str(tiny_base_folder)), "cpu")
    run = TuningRun(model, VALIDATION, CONFIG, tmp_path)
    base = copy_of_weights(run.model)
    with torch.no_grad():
        for weights in run.model.parameters():
            weights.add_(torch.rand_like(weights))
    moved = copy_of_weights(run.model)
    perfect = {metric: dict.fromkeys(of_queries, 1.0) for metric, of_queries in run.selection.baseline.items()}
    run.selection.enter("moved", perfect)
    asked = iter([False, True])
    recipe._draw_back(run, base, lambda name: next(asked))
    assert run.selection.candidates[-1].name == "drawn back to 80%"

    resumed = TuningRun(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG, tmp_path)
    resumed.selection.restore()
    assert all(torch.equal(weights, moved[name]) for name, weights in resumed.model.state_dict().items())


def test_guards_are_asked_of_what_is_written_though_it_is_worse(tuned, monkeypatch, tiny_base_folder):
    monkeypatch.setattr(recipe, "RANKING", replace(recipe.RANKING, learning_rate=1e-2))
    asked = what_the_base_finds_first(tiny_base_folder)
    said: list[str] = []
    guarded = Automatic(guards={"other source": asked}, keywords="off")
    report = tuned(validation=asked, automatic=guarded, keep_worse=True, say=said.append)
    assert any(line.startswith("guard       other source, ") and line.endswith(": worse") for line in said)
    written = SentenceTransformer(str(report.folder), device="cpu")
    scores = score_vectors(asked, *(written.encode(list(texts.values())) for texts in (asked.queries, asked.corpus)))
    assert mean_ndcg(scores) == pytest.approx(1.0, abs=0.1)


def test_guard_is_not_asked_what_is_learned(tuned):
    guard = dataset(VERBS[5:7])  # of these ten are training questions
    said: list[str] = []
    tuned(automatic=Automatic(guards={"other": guard}, keywords="off"), keep_worse=True, say=said.append)
    assert "left out of the guard other: 10 questions that are training questions" in said
    with pytest.raises(TrainingError, match="guard other: all of its questions are training questions; give others"):
        tuned(automatic=Automatic(guards={"other": dataset(VERBS[:2])}))


def test_guard_of_too_few_questions_is_told(tuned):
    few = dataset(VERBS[6:7]).subset(f"q-{noun}-moved" for noun in NOUNS[:5])
    said: list[str] = []
    tuned(automatic=Automatic(guards={"other": few}, keywords="off"), keep_worse=True, say=said.append)
    assert "guard       other guards nothing: it takes 6 answers to show that any got worse" in said


def test_stage_that_held_up_holds_up_after_a_kill_at_its_end(tiny_base_folder, tmp_path):
    def scored(*values: float):
        return {m: {str(n): values[n % len(values)] for n in range(40)} for m in ("recall@1", "ndcg@10")}

    def begun(scores: list) -> Selection:
        model = SentenceTransformer(str(tiny_base_folder), device="cpu")
        groups = [[str(n)] for n in range(40)]
        selection = Selection(
            scored(0.5), model, lambda: scores.pop(0), lambda line: None, groups, folder=tmp_path, leniency=1.0
        )
        selection.resume()
        selection.begin_stage()
        return selection

    selection = begun([scored(0.1, 0.9), scored(0.95)])
    assert selection.holds_up("chunks, early")
    selection.enter("chunks")
    again = begun([scored(0.1, 0.9), scored(0.4)])
    assert again.holds_up("chunks, early")
    assert again.kept.name == "chunks"
    again.finish_stage()
    assert not begun([scored(0.4)]).holds_up("another, early")


def test_width_above_the_models_is_refused_before_anything_is_read(tuned, tmp_path):
    said: list[str] = []
    with pytest.raises(TrainingError, match="the model is 32 wide and cannot be cut to 64; give --widths up to 32"):
        tuned(config=replace(CONFIG, widths=(64,)), say=said.append)
    assert not any(line.startswith("baseline") for line in said)
    assert list(tmp_path.iterdir()) == []


def test_guards_that_never_hold_leave_the_base(tiny_base_folder):
    run = TuningRun(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG)
    base = copy_of_weights(run.model)
    with torch.no_grad():
        for weights in run.model.parameters():
            weights.add_(torch.rand_like(weights))
    perfect = {metric: dict.fromkeys(of_queries, 1.0) for metric, of_queries in run.selection.baseline.items()}
    run.selection.enter("moved", perfect)
    recipe._draw_back(run, base, lambda name: False)
    result = run.result(Material(TRAINING, VALIDATION), evidence_needed=True)
    assert (result.chosen.name, result.preferred, result.improved) == ("the base itself", False, False)
    assert all(torch.equal(weights, base[name]) for name, weights in result.model.state_dict().items())


def test_kept_for_worse_are_the_weights_that_the_manifest_speaks_of(tuned, monkeypatch, tiny_base_folder):
    monkeypatch.setattr(recipe, "RANKING", replace(recipe.RANKING, learning_rate=1e-2))
    asked = what_the_base_finds_first(tiny_base_folder)
    report = tuned(validation=asked, automatic=Automatic(keywords="off"), keep_worse=True)
    assert not report.tuned.preferred
    assert report.manifest["training"]["kept"] == report.tuned.chosen.name
    written = SentenceTransformer(str(report.folder), device="cpu")
    scores = score_vectors(asked, *(written.encode(list(texts.values())) for texts in (asked.queries, asked.corpus)))
    assert mean_ndcg(scores) == pytest.approx(mean_ndcg(report.tuned.chosen.scores), abs=0.05)
    assert mean_ndcg(scores) < 0.95


def test_too_few_answers_to_tell_a_gain_from_luck_are_said_before_the_work(tuned):
    few = VALIDATION.subset(list(VALIDATION.queries)[:4])
    with pytest.raises(TrainingError, match="fewer than 5 cannot tell any gain from luck"):
        tuned(TRAINING, few)


def test_keywords_that_help_are_written_and_served_as_validation_saw_them(undisturbed):
    report = undisturbed.report
    weight = report.manifest["keywords"]["weight"]
    assert report.tuned.chosen.name == f"keywords, {weight:.0%}" == report.manifest["training"]["kept"]
    assert [c.name for c in report.tuned.candidates].count(report.tuned.chosen.name) == 1
    served = TunedEmbeddings(str(report.folder))
    assert served.dimension == report.manifest["dimension"] == 768  # wide ones find no more here
    assert served.keywords.fitted.steps.shape[1] == 734
    vectors = [np.array(embed(texts), dtype=np.float32) for embed, texts in (
        (lambda texts: [served.embed_query(text) for text in texts], VALIDATION.queries.values()),
        (served.embed_documents, list(CORPUS.values())),
    )]  # fmt: skip
    assert mean_ndcg(score_vectors(VALIDATION, *vectors)) == pytest.approx(mean_ndcg(report.tuned.chosen.scores))


@pytest.mark.parametrize(
    "options",
    [
        {"automatic": Automatic(keywords="off")},
        {"config": replace(CONFIG, widths=(16,))},
    ],
    ids=["off", "vectors that will be cut"],
)
def test_there_are_no_keywords(tuned, options):
    report = tuned(keep_worse=True, **options)
    assert "keywords" not in report.manifest
    assert report.manifest["dimension"] == 32
    assert not [c for c in report.tuned.candidates if "keywords" in c.name]


def test_where_nobody_asked_keywords_have_the_usual_weight_and_words_that_a_chunk_still_has_do_not_speak_for_them(
    tuned,
):
    drawn = random.Random(0)
    names = ["".join(drawn.choices("abcdefghij", k=7)) for _ in range(80)]
    facts = {
        name: f"The worker with {name} for its name starts every night. It writes {name} into the log of its queue."
        for name in names
    }
    report = tuned(None, None, corpus=facts)
    assert (
        report.tuned.chosen.name == f"keywords, {WEIGHTS_BESIDE_TAUGHT[0]:.0%}" == report.manifest["training"]["kept"]
    )
    assert report.manifest["keywords"] == {"weight": WEIGHTS_BESIDE_TAUGHT[0], "width": 736}
    assert TunedEmbeddings(str(report.folder)).dimension == 768
    *candidates, last = [candidate.scores["ndcg@10"] for candidate in report.tuned.candidates]
    before = [report.tuned.choice.baseline["ndcg@10"], *candidates]
    of_words = [query_id for query_id in last if query_id.startswith("words")]
    alone = [each for each in before if all(each[query_id] == last[query_id] for query_id in of_words)]
    assert alone
    assert all(sum(last.values()) > sum(each.values()) for each in alone)


def test_where_nobody_asked_keywords_are_left_out_that_hide_sentences_or_make_a_guard_worse(tiny_base_folder):
    asked = what_the_base_finds_first(tiny_base_folder)
    said: list[str] = []
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), asked, CONFIG, say=said.append)
    put_usual_keywords(run, CORPUS.values(), (), lambda name: True)
    assert run.keywords is None
    assert said[-1].startswith("keywords    left out: validation ndcg@10 -0.")
    put_usual_keywords(run, CORPUS.values(), set(CORPUS), lambda name: False)
    assert run.keywords is None
    assert said[-1] == "keywords    left out: a guard got worse"
    put_usual_keywords(run, CORPUS.values(), set(CORPUS), lambda name: "40%" not in name)
    assert run.keywords.weight == WEIGHTS_BESIDE_TAUGHT[1]
    put_usual_keywords(run, CORPUS.values(), set(CORPUS), lambda name: True)  # none of the questions counts
    assert run.keywords.weight == WEIGHTS_BESIDE_TAUGHT[0]


def test_where_nobody_asked_keywords_are_left_out_that_spoil_what_beats_the_base(tiny_base_folder, monkeypatch):
    monkeypatch.setattr(keyword_choice, "judge", lambda *_, **__: SimpleNamespace(verdict="not enough evidence"))
    asked = what_the_base_finds_first(tiny_base_folder)
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), asked, CONFIG)
    put_usual_keywords(run, CORPUS.values(), (), lambda name: True)  # they hide what is found, and nothing is better
    assert run.keywords.weight == WEIGHTS_BESIDE_TAUGHT[0]
    run.keywords = None
    run.to_beat = {name: {q: score - 1e-6 for q, score in scores.items()} for name, scores in run.to_beat.items()}
    put_usual_keywords(run, CORPUS.values(), (), lambda name: True)
    assert run.keywords is None


def test_wide_keywords_are_taken_where_narrow_ones_mistake_too_many_words(tiny_base_folder):
    """One word of each chunk asks for it, among so many others that their directions drown it out."""
    drawn = random.Random(0)
    corpus = {f"c{n}": " ".join(f"{drawn.randrange(10**6):06d}" for _ in range(750)) for n in range(40)}
    queries = {f"q {doc_id}": text.split()[350] for doc_id, text in corpus.items()}
    dataset = RetrievalDataset(queries, corpus, {f"q {doc_id}": (doc_id,) for doc_id in corpus})
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    run = TuningRun(model, dataset, CONFIG)
    weigh_keywords(run, corpus.values(), wide=False)
    assert run.keywords.width == 736
    assert not [c for c in run.selection.candidates if c.name.startswith("wide")]
    weigh_keywords(run, corpus.values())
    assert run.keywords.width == 1504
    assert run.selection.kept.name == f"wide keywords, {run.keywords.weight:.0%}"
    assert len(run.selection.candidates) == 2 * len(WEIGHTS)


def test_keywords_are_left_out_where_they_make_a_guard_worse(tiny_base_folder):
    said: list[str] = []
    run = TuningRun(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG, say=said.append)
    weigh_keywords(run, CORPUS.values(), guards_hold=lambda name: False)
    assert run.keywords is None
    assert run.selection.kept is None
    assert said[-1] == "keywords    left out: a guard got worse"
    tried = []
    weigh_keywords(run, CORPUS.values(), guards_hold=lambda name: bool(tried.append(name)) or len(tried) == 2)
    assert tried[1] != tried[0]
    assert run.selection.kept.name == tried[1]
    assert tried[1].endswith(f"keywords, {run.keywords.weight:.0%}")


def test_half_way_between_two_models():
    base, other = {"w": torch.zeros(2), "n": torch.tensor(1)}, {"w": torch.ones(2), "n": torch.tensor(1)}
    assert drawn_towards(base, other, 0.5)["w"].tolist() == [0.5, 0.5]
    assert drawn_towards(base, other, 0.5)["n"] == 1


@pytest.mark.parametrize("stopped_at", [("chunks", 2), ("questions", 1), ("hardest", 1)])
def test_run_that_is_stopped_and_gone_on_with_ends_with_the_same_weights(
    tuned, undisturbed, monkeypatch, stopped_at, tmp_path
):
    whole = undisturbed.report
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    with stopping(stopped_at):
        tuned()
    assert not (tmp_path / "tuned").exists()
    said: list[str] = []
    resumed = tuned(resume=True, say=said.append)
    assert "resume      going on with the run that was stopped" in said
    assert resumed.manifest["fingerprint"] == whole.manifest["fingerprint"]
    assert resumed.tuned.mined == whole.tuned.mined
    assert not (tmp_path / ".tuned.run").exists()


@pytest.mark.parametrize("recipe_chooses", [True, False], ids=["auto", "told"])
def test_run_that_is_stopped_before_its_epoch_is_scored_ends_with_the_same_weights(
    tuned, undisturbed, monkeypatch, recipe_chooses
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    told = {"automatic": None, "config": replace(CONFIG, epochs=2), "keep_worse": True}
    options = {} if recipe_chooses else told
    whole = undisturbed.report if recipe_chooses else tuned(**told)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.AtEpochEnd, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned(**options)
    resumed = tuned(resume=True, **options)
    assert [c.name for c in resumed.tuned.candidates] == [c.name for c in whole.tuned.candidates]
    assert resumed.manifest["fingerprint"] == whole.manifest["fingerprint"]


def test_run_without_questions_that_is_gone_on_with_is_taught_by_the_same_tokens(tuned, monkeypatch):
    alone = {"training": None, "validation": None, "corpus": CORPUS, "keep_worse": True}
    whole = tuned(**alone)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    with stopping(("chunks", 2)):
        tuned(**alone)
    assert tuned(resume=True, **alone).manifest["fingerprint"] == whole.manifest["fingerprint"]


def test_run_that_goes_on_tells_what_is_done_and_how_long_it_took_in_all(tuned, tmp_path):
    taken = tmp_path / ".tuned.run" / "seconds.json"
    with stopping(("questions", 1)):
        tuned(keep_worse=True)
    assert json.loads(taken.read_text()) > 0
    taken.write_text("1000")
    with stopping(("questions", 2)):
        tuned(keep_worse=True, resume=True)
    assert json.loads(taken.read_text()) > 1000
    said: list[str] = []
    report = tuned(keep_worse=True, resume=True, say=said.append)
    assert report.tuned.seconds > 1000
    assert "plan        1. chunks: done" in said
    assert any(line.startswith(f"plan        2. questions: {len(TRAINING)} questions") for line in said)
    assert any(re.search(r"so far \(16 min \d\d s before it was stopped\), of 20 min", line) for line in said)
    assert not any("longer than allowed" in line for line in said)


def test_nothing_of_the_texts_is_in_what_a_stopped_run_leaves(tuned, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("docsgpt_embtune.training.train.write_model_folder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuned(keep_worse=True)
    left = [path for path in (tmp_path / ".tuned.run").rglob("*") if path.is_file()]
    assert any(path.name == "optimizer.pt" for path in left)
    assert not any(b"when is the log" in path.read_bytes() or b"by hand" in path.read_bytes() for path in left)


def test_another_run_is_not_gone_on_with(tuned, monkeypatch):
    with stopping(("chunks", 1)):
        tuned(keep_worse=True)
    with pytest.raises(TrainingError, match="left by a run with a different --time-budget; run with the same"):
        tuned(keep_worse=True, resume=True, automatic=Automatic(minutes=10))
    with pytest.raises(TrainingError, match="left by a run with a different --seed;"):
        tuned(keep_worse=True, resume=True, config=replace(CONFIG, seed=99))
    monkeypatch.setattr("docsgpt_embtune.training.train.__version__", "0.0.1")
    with pytest.raises(TrainingError, match="left by a run with a different version"):
        tuned(keep_worse=True, resume=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--recipe", "auto", "--loss", "cosine-similarity", "--epochs", "2"],
            "--recipe auto chooses --loss, --epochs",
        ),
        (["--epochs", "2", "--time-budget", "3"], "--time-budget: only with --recipe auto, and --epochs"),
        (["--widths", "8,16", "--keywords", "narrow"], "--keywords narrow with --widths: a vector to be cut has no"),
        (["--time-budget", "0"], "Invalid value for '--time-budget': '0': give a time above 0 that ends"),
    ],
)
def test_mixed_up_options_are_refused(tmp_path, arguments, complaint):
    save_dataset(TRAINING, tmp_path / "train.json")
    files = ["--train", str(tmp_path / "train.json"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["train", *files, *arguments])
    assert result.exit_code == 2
    assert complaint in result.stderr


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_base_folder, tmp_path):
    save_dataset(TRAINING, tmp_path / "train.json")
    save_dataset(VALIDATION, tmp_path / "val.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "docsgpt_embtune", "train"]
    command += ["--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--keep-worse"]
    command += ["--base", str(tiny_base_folder), "--out", str(tmp_path / "tuned"), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("baseline    validation") == 1
    assert (tmp_path / "tuned" / "embtune.json").is_file()

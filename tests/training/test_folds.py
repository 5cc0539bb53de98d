"""Few questions that choose and teach, too: real trainer, real files, a real stop."""

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.data.split import FEW_QUESTIONS, folds_by_answer, groups_by_answer
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.training import callbacks, recipe, tuning_run
from docsgpt_embtune.training import train as train_module
from docsgpt_embtune.training.folds import FOLDS, FoldVectors, folds_of
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, are_few
from docsgpt_embtune.training.keywords.fitting import KeywordFitting
from docsgpt_embtune.training.large_corpora import as_time_allows
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.train import TrainingReport, train
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuning_run import TuningRun

from ..sample_questions import NOUNS, VERBS
from .recipe_runs import (
    AUTOMATIC,
    CONFIG,
    CORPUS,
    TRAINING,
    VALIDATION,
    dataset,
    shuffled,
    stopping,
)

FEW = dataset(VERBS[:6])


pytestmark = pytest.mark.usefixtures("quick_learning")


def tune(base, out, training=FEW, automatic=AUTOMATIC, **options):
    options = {"config": CONFIG, "keep_worse": True, **options}
    return train(training, None, out, base=str(base), automatic=automatic, **options)


@pytest.fixture
def tuned(tiny_base_folder, tmp_path):
    return partial(tune, tiny_base_folder, tmp_path / "tuned")


@dataclass(frozen=True)
class WatchedRun:
    report: TrainingReport
    said: list[str]
    learned: list[set[str]]  # the questions of each training
    words: list[set[str]]  # the questions that each choice of keywords learned from


@pytest.fixture(scope="module")
def undisturbed(quick_learning, tiny_base_folder, tmp_path_factory):
    said: list[str] = []
    learned: list[set[str]] = []
    words: list[set[str]] = []
    real_examples, real_kinds = tuning_run.build_examples, KeywordFitting.kinds

    def spy_examples(questions, loss):
        learned.append({question.text for question in questions})
        return real_examples(questions, loss)

    def spy_kinds(self, training=None):
        words.append(set(training.queries.values()))
        return real_kinds(self, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_run, "build_examples", spy_examples)
        patch.setattr(KeywordFitting, "kinds", spy_kinds)
        report = tune(tiny_base_folder, tmp_path_factory.mktemp("undisturbed") / "tuned", say=said.append)
    return WatchedRun(report, said, learned, words)


def test_questions_about_one_answer_are_in_one_fold():
    twice = RetrievalDataset(
        {f"q{n}": f"question {n}" for n in range(12)},
        {f"c{n}": f"chunk {n}" for n in range(6)},
        {f"q{n}": (f"c{n // 2}",) for n in range(12)},
    )
    folds = folds_by_answer(twice, 3)
    assert sorted(row for _, inside in folds for row in inside) == list(range(12))
    for outside, inside in folds:
        assert sorted([*outside, *inside]) == list(range(12))
        assert {row // 2 for row in outside}.isdisjoint(row // 2 for row in inside)


def test_folds_are_for_questions_that_are_few_and_about_answers_enough():
    many = RetrievalDataset(
        {f"q{n}": f"question {n}" for n in range(FEW_QUESTIONS + 1)},
        {f"c{n}": f"chunk {n}" for n in range(FEW_QUESTIONS + 1)},
        {f"q{n}": (f"c{n}",) for n in range(FEW_QUESTIONS + 1)},
    )
    counts = (FEWEST_GROUPS - 1, FEWEST_GROUPS, FEW_QUESTIONS, FEW_QUESTIONS + 1)
    assert [are_few(many.subset(list(many.queries)[:count])) for count in counts] == [False, True, True, False]


def test_every_question_chooses_and_every_question_teaches(undisturbed):
    report, said = undisturbed.report, undisturbed.said
    assert "no --val given: each of 60 questions is asked of a model that did not learn from it" in said
    names = [candidate.name for candidate in report.tuned.candidates]
    assert names[:6] == ["chunks, early", "chunks", "questions", "questions, mean", "hardest", "hardest, mean"]
    assert all(set(candidate.scores["ndcg@10"]) == set(FEW.queries) for candidate in report.tuned.candidates)
    assert report.manifest["validation"]["queries"] == 60
    assert report.manifest["validation"]["verdict"] == "improved"
    assert report.manifest["validation"]["asked_by"] == "the training questions, of models that learned without them"
    assert "validation" not in report.manifest["data"]
    assert len([line for line in said if line.startswith("mined")]) == 3


def test_no_fold_learns_from_what_it_is_asked(undisturbed):
    everything = set(FEW.queries.values())
    of_folds = [everything - set(fold.asked.queries.values()) for fold in folds_of(FEW)]
    assert len(of_folds) == FOLDS
    assert undisturbed.learned[1:] == [*of_folds, everything] * 2  # after the chunks' own: the questions, the hardest
    assert undisturbed.words == [everything, *of_folds]


def test_what_is_learned_by_heart_is_no_gain(tuned, tiny_base_folder, monkeypatch):
    """Answers that no other question can tell of are found by a model that has them by heart, and by no fold's."""
    monkeypatch.setattr(recipe, "RANKING", replace(recipe.RANKING, learning_rate=1e-2))
    of_chance = shuffled(FEW, 1)
    report = tuned(of_chance, automatic=Automatic(keywords="off"), keep_worse=False)
    assert report.folder is None
    assert not report.tuned.improved

    run = TuningRun.begin(
        load_base(resolve_base(str(tiny_base_folder)), "cpu"), of_chance, CONFIG, folds=folds_of(of_chance)
    )
    by_heart = replace(recipe.RANKING, precision="fp32", epochs=10)
    run.train(0, Stage("questions", of_chance, by_heart, mines=False, asks_folds=True))
    (candidate,) = run.selection.candidates
    assert candidate.name == "questions, epoch 10"
    assert mean_ndcg(run.score(*run.pools)) > 2 * mean_ndcg(candidate.scores)


def test_guards_and_many_questions_have_some_held_out(tuned):
    said: list[str] = []
    tuned(automatic=Automatic(guards={"other": VALIDATION}), say=said.append)
    many = RetrievalDataset(
        {f"q{n}": f"question {n}" for n in range(FEW_QUESTIONS + 1)},
        CORPUS,
        {f"q{n}": (list(CORPUS)[n % len(CORPUS)],) for n in range(FEW_QUESTIONS + 1)},
    )
    assert train_module._split(many, None, None, AUTOMATIC, 13, said.append).validation is not None
    assert [line.split(":")[1].split(" of ")[0] for line in said if line.startswith("no --val")] == [" 24", " 96"]


def test_answers_too_few_to_choose_by_are_refused(tuned):
    few = FEW.subset(list(FEW.queries)[:4])
    with pytest.raises(TrainingError, match="fewer than 5 cannot tell any gain from luck"):
        tuned(few, keep_worse=False)


def test_without_time_for_folds_some_are_held_out(tuned):
    said: list[str] = []
    report = tuned(automatic=Automatic(minutes=1e-4), say=said.append)
    said_of_folds = r"no time to ask 60 questions of models that learned without them; --time-budget \d+m would do"
    assert any(re.fullmatch(said_of_folds, line) for line in said)
    assert "no --val given: 24 of the questions are held out to choose by" in said
    data = report.manifest["data"]
    assert (data["training"]["queries"], data["validation"]["queries"]) == (36, 24)
    assert report.manifest["validation"]["queries"] == 24
    assert report.manifest["validation"]["asked_by"] == "the questions given"
    assert len(data["seen_queries"]) == 60


def test_a_handful_is_asked_in_folds_whatever_the_time(tiny_base_folder):
    corpus = {f"c{n}": f"{NOUNS[n % 10]} number {n} is {VERBS[n % 7]}" for n in range(3000)}
    queries = {f"q{n}": f"which is {n}" for n in range(10)}
    large = RetrievalDataset(queries, corpus, {f"q{n}": (f"c{n}",) for n in range(10)})
    encode = Encoder(load_base(resolve_base(str(tiny_base_folder)), "cpu"), "fp32")
    said: list[str] = []
    part = as_time_allows(Material(large, None, {}), encode, 1e-6, seed=13, say=said.append)
    assert part.validation is None
    assert part.training.queries == large.queries
    assert len(part.training.corpus) < 3000
    assert not any("held out" in line for line in said)
    _, taken, _ = said
    assert re.fullmatch(r"reads       1,\d+ of 3,000 chunks; more with a longer --time-budget", taken)


@pytest.mark.parametrize("stopped_at", [("questions 2/3", 1), ("hardest", 2)])
def test_run_that_is_stopped_in_a_fold_ends_with_the_same_weights(
    tuned, undisturbed, monkeypatch, stopped_at, tmp_path
):
    whole = undisturbed.report
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0.0)
    with stopping(stopped_at):
        tuned()
    resumed = tuned(resume=True)
    assert resumed.manifest["fingerprint"] == whole.manifest["fingerprint"]
    assert [c.scores for c in resumed.tuned.candidates] == [c.scores for c in whole.tuned.candidates]
    assert not (tmp_path / ".tuned.run").exists()


def test_run_that_could_not_write_its_folder_ends_as_if_it_could(tuned, undisturbed, monkeypatch, tmp_path):
    """What came after the stages is done again, of models that learned without what they are asked."""
    expected = undisturbed.report.manifest
    assert "keywords" in expected
    out = tmp_path / "tuned"

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "write_model_folder", full_disk)
        with pytest.raises(OSError, match="No space left"):
            tuned()
    assert not out.exists()
    resumed = tuned(resume=True)
    for key in ("fingerprint", "keywords", "validation"):
        assert resumed.manifest[key] == expected[key]


def test_fold_whose_others_there_is_no_time_for_is_asked_of_what_the_stage_began_with(tiny_base_folder):
    folds = folds_of(FEW)
    run = TuningRun.begin(load_base(resolve_base(str(tiny_base_folder)), "cpu"), FEW, CONFIG, folds=folds)
    some = FEW.subset(list(folds[0].asked.queries)[:8])
    config = replace(recipe.RANKING, precision="fp32")
    run.train(0, Stage("questions", some, config, mines=False, asks_folds=True))
    (candidate,) = run.selection.candidates
    ours, base = candidate.scores["ndcg@10"], run.selection.baseline["ndcg@10"]
    assert ours.keys() == FEW.queries.keys()
    changed = {query_id for query_id in FEW.queries if ours[query_id] != base[query_id]}
    assert changed
    assert changed.isdisjoint(folds[0].asked.queries)


def test_one_step_changes_the_model(tiny_base_folder):
    """transformers' warm-up begins at a rate of 0, which would be all that a few questions get."""
    run = TuningRun.begin(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG)
    before = run.selection.stage_weights
    config = replace(recipe.RANKING, precision="fp32", batch_size=32)
    few = TRAINING.subset(list(TRAINING.queries)[:20])
    run.train(0, Stage("questions", few, config, mines=False))
    after = run.model.state_dict()
    assert any((after[name] != weights).any() for name, weights in before.items())


def test_few_questions_are_learned_from_in_more_than_one_step(tiny_base_folder):
    run = TuningRun.begin(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG)
    rows = {}
    for count in (10, 60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipe, "RANKING", replace(recipe.RANKING, batch_size=32))
            few = TRAINING.subset(list(TRAINING.queries)[:count])
            chunks, questions, hardest = recipe._stages(run, Material(few, None), CONFIG)
        assert chunks.config.batch_size == 32
        rows[count] = (questions.config.batch_size, hardest.config.batch_size)
    assert rows == {10: (8, 8), 60: (15, 15)}


def test_question_that_is_asked_twice_about_two_answers_is_not_learned_from_where_it_is_asked():
    one, other, neither = folds_of(FEW)
    twins = [next(iter(fold.asked.queries)) for fold in (one, other)]
    same = dict(zip(twins, ["Which is  it", "which is it"], strict=True))
    folds = folds_of(replace(FEW, queries={**FEW.queries, **same}))
    assert [fold.asked.queries.keys() for fold in folds] == [f.asked.queries.keys() for f in (one, other, neither)]
    assert [[twin in fold.learned for twin in twins] for fold in folds] == [[False] * 2, [False] * 2, [True] * 2]


@pytest.mark.parametrize("on_disk", [True, False])
def test_vectors_are_kept_by_fold_and_by_candidate(on_disk, tmp_path):
    kept = FoldVectors(tmp_path / "new" if on_disk else None)
    made = {(fold, candidate): np.full((1, 2), [fold, len(candidate)]) for fold in (0, 1) for candidate in ("a", "bb")}
    assert not kept.has(0, "a")
    for key, vectors in made.items():
        kept.keep(*key, vectors, -vectors)
    for key, vectors in made.items():
        questions, chunks = kept.load(*key)
        assert kept.has(*key)
        assert (questions.tolist(), chunks.tolist()) == (vectors.tolist(), (-vectors).tolist())
    assert not kept.has(2, "a")


def test_folds_share_the_groups():
    for fold in folds_of(FEW):
        assert len(fold.asked) == len(groups_by_answer(fold.asked)) == 20
        assert len(fold.learned) == 40

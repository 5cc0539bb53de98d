"""Weights are drawn back towards the base until the guards hold."""

from dataclasses import replace

import pytest
import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.training import recipe
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.selection import copy_of_weights, drawn_towards
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.training.validation import score_vectors

from ...sample_questions import NOUNS, VERBS
from ..recipe_runs import CONFIG, CORPUS, TRAINING, VALIDATION, dataset, what_the_base_finds_first

pytestmark = pytest.mark.usefixtures("quick_learning")


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


def test_what_is_no_dataset_is_no_guard():
    with pytest.raises(TypeError, match=r"^other must be a RetrievalDataset, and is 'q.csv'; give what load_dataset"):
        Automatic(guards={"other": "q.csv"})
    with pytest.raises(TypeError, match=r"^guards must map names to datasets, and is \['q.csv'\]"):
        Automatic(guards=["q.csv"])


def test_run_that_is_stopped_while_it_draws_back_does_so_again(tiny_base_folder, tmp_path):
    model = load_base(resolve_base(str(tiny_base_folder)), "cpu")
    run = TuningRun.begin(model, VALIDATION, CONFIG, tmp_path)
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

    resumed = TuningRun.begin(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG, tmp_path)
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


def test_guards_that_never_hold_leave_the_base(tiny_base_folder):
    run = TuningRun.begin(load_base(resolve_base(str(tiny_base_folder)), "cpu"), VALIDATION, CONFIG)
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


def test_half_way_between_two_models():
    base, other = {"w": torch.zeros(2), "n": torch.tensor(1)}, {"w": torch.ones(2), "n": torch.tensor(1)}
    assert drawn_towards(base, other, 0.5)["w"].tolist() == [0.5, 0.5]
    assert drawn_towards(base, other, 0.5)["n"] == 1

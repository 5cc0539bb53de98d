"""Which candidate of a run is kept, and which weights are loaded in the end."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.training.selection import Selection, copy_of_weights
from docsgpt_embtune.wording import silent

QUERIES = [str(number) for number in range(40)]


def scored(*values: float):
    return {metric: {q: values[int(q) % len(values)] for q in QUERIES} for metric in ("recall@1", "ndcg@10")}


@pytest.fixture
def model(tiny_base_folder):
    return SentenceTransformer(str(tiny_base_folder), device="cpu")


def selection_of(model, **options) -> Selection:
    return Selection(scored(0.5), model, scored, silent, [[q] for q in QUERIES], **options)


def learn(model, weight: float) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(weight)


def learned_by(model) -> float:
    return next(model.parameters()).flatten()[0].item()


def enter(selection: Selection, **means: float) -> None:
    for weight, (name, mean) in enumerate(means.items(), start=1):
        learn(selection.model, weight)
        selection.enter(name, scored(mean))


def test_the_best_is_kept_and_the_first_of_equals(model):
    selection = selection_of(model)
    enter(selection, lower=0.6, best=0.7, later=0.65, equal=0.7, below=0.4)
    assert selection.kept.name == selection.restore_chosen().name == "best"
    assert learned_by(model) == 2
    learn(model, 9)
    selection.restore()
    assert learned_by(model) == 2
    assert [candidate.name for candidate in selection.candidates] == ["lower", "best", "later", "equal", "below"]


def test_what_does_not_beat_the_base_is_not_kept_and_the_best_of_it_is_remembered(model):
    base = learned_by(model)
    selection = selection_of(model)
    enter(selection, lower=0.4, equal=0.5, lowest=0.3)
    assert selection.kept is None
    selection.restore()
    assert learned_by(model) == base
    assert selection.restore_chosen().name == "equal"
    assert learned_by(model) == 2


def test_a_later_one_takes_the_place_of_the_best_within_its_leniency_and_none_that_the_base_beats(model):
    best, level, lower = scored(0.5, 0.9), scored(0.9, 0.4), scored(0.49, 0.89)  # means .7, .65 and .69
    for leniency, kept in ((0.0, "best"), (1.0, "level")):
        selection = selection_of(model, leniency=leniency)
        for name, scores in (("best", best), ("level", level)):
            selection.enter(name, scores)
        assert selection.kept.name == kept
    selection = selection_of(model, leniency=1.0)
    for name, scores in (("best", best), ("lower everywhere", lower)):  # lower by what no standard error excuses
        selection.enter(name, scores)
    assert selection.kept.name == "best"
    selection = selection_of(model, leniency=1.0)
    for name, scores in (("hardly better", scored(0.2, 0.82)), ("level, and below the base", scored(0.78, 0.2))):
        selection.enter(name, scores)
    assert selection.kept.name == "hardly better"


@pytest.mark.parametrize(("below", "kept"), [(0.9, "later"), (1.1, "best")])
def test_leniency_is_counted_in_standard_errors(model, below, kept):
    drawn = np.random.default_rng(0).normal(0.0, 0.1, len(QUERIES))
    error = drawn.std(ddof=1) / len(QUERIES) ** 0.5
    changed = drawn - drawn.mean() - below * error
    selection = selection_of(model, leniency=1.0)
    selection.enter("best", scored(*[0.7] * len(QUERIES)))
    selection.enter("later", scored(*(0.7 + changed)))
    assert selection.kept.name == kept


def test_of_what_follows_the_stages_all_count_as_tried_and_one_may_be_kept(model):
    selection = selection_of(model)
    enter(selection, stage=0.6)
    learn(model, 2)
    assert not selection.enter_last({"higher": scored(0.9), "named": scored(0.55)}, "named")
    assert selection.kept.name == "stage"
    assert selection.enter_last({"higher": scored(0.9), "named": scored(0.55)}, "named", whatever_it_scores=True)
    assert (selection.kept.name, selection.kept.scores) == ("named", scored(0.55))
    assert [candidate.name for candidate in selection.candidates] == ["stage", "higher", "named"]
    selection.restore()
    assert learned_by(model) == 2


def test_what_is_discarded_for_another_reason_was_tried_all_the_same(model):
    base = copy_of_weights(model)
    selection = selection_of(model)
    enter(selection, rejected=0.4, kept=0.7)
    selection.reject_kept(base)
    assert selection.kept is None
    assert selection.restore_chosen().name == "kept"
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())

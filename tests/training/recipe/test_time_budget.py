"""What a run plans for its time, and does if there is too little of it."""

import re
import time
from dataclasses import replace

import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training import negatives, planning, recipe
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.tuning_run import TuningRun

from ...sample_questions import NOUNS, VERBS
from ..recipe_runs import CONFIG, CORPUS, TRAINING, VALIDATION

pytestmark = pytest.mark.usefixtures("quick_learning")


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
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    few, many = (recipe._stages(run, Material(each, VALIDATION), CONFIG)[1] for each in (TRAINING, given))
    pace = planning.Pace(training=1.0, encoding=0.0)
    assert planning._cost(many, run, pace, []).seconds > 2 * planning._cost(few, run, pace, []).seconds

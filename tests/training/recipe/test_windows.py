"""Long chunks are read in windows where that finds more, and where there is time to see it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.serving.reading import WindowReader
from docsgpt_embtune.training import recipe
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.training.tuning_run import TuningRun

from ..recipe_runs import CONFIG, CORPUS, TRAINING, VALIDATION

pytestmark = pytest.mark.usefixtures("quick_learning")


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
    run = TuningRun.begin(load_base(base, "cpu"), questions, CONFIG)
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
    run = TuningRun.begin(model, with_answers_beyond(VALIDATION), CONFIG)
    run.read_in_windows(WindowReader(tiny_base_folder, 64), [], always=True)
    chunks, questions, _ = recipe._stages(run, Material(dataset, VALIDATION), CONFIG)
    for stage in (chunks, questions):
        assert all(len(model.tokenizer(text)["input_ids"]) <= 64 for text in stage.questions.corpus.values())
    for query_id, doc_ids in dataset.relevant_docs.items():
        (piece_id,) = questions.questions.relevant_docs[query_id]
        assert questions.chunk_of.get(piece_id, piece_id) == doc_ids[0]

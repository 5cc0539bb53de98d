"""A tuned base stands beside what comes of it as it serves: with its keywords, and its chunks read in windows."""

from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.training import recipe
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.extras import Extras
from docsgpt_embtune.training.keywords.fitting import NARROW, KeywordFitting
from docsgpt_embtune.training.query_adapter.adapting import adapt
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.summary import summary
from docsgpt_embtune.training.train import train
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.training.validation import score_vectors

from ..sample_questions import VERBS
from .recipe_runs import CONFIG, CORPUS, TRAINING, VALIDATION, dataset, learning_quickly

HARDLY = TrainConfig(learning_rate=1e-9, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def with_keywords(tiny_base_folder, tmp_path_factory):
    """A tuned folder with keywords, which its random weights need."""
    out = tmp_path_factory.mktemp("base") / "tuned"
    with learning_quickly():
        report = train(TRAINING, VALIDATION, out, base=str(tiny_base_folder), config=CONFIG, automatic=Automatic())
    assert "keywords" in report.manifest
    return out


@pytest.fixture
def keywords():
    return replace(KeywordFitting.of(CORPUS.values(), 32).kinds()[NARROW], weight=0.8)


def served_ndcg(folder, questions=VALIDATION) -> float:
    model = TunedEmbeddings(str(folder))
    queries = np.array([model.embed_query(text) for text in questions.queries.values()], dtype=np.float32)
    chunks = np.array(model.embed_documents(list(questions.corpus.values())), dtype=np.float32)
    return mean_ndcg(score_vectors(questions, queries, chunks))


def test_run_of_ones_own_keeps_the_keywords_and_is_compared_with_them(with_keywords, tmp_path):
    said: list[str] = []
    again = {"base": str(with_keywords), "config": HARDLY, "keep_worse": True, "say": said.append}
    report = train(dataset(VERBS[:2]), VALIDATION, tmp_path / "again", **again)
    assert f"base        {with_keywords}: 768 wide (736 of it keywords), reads 64 tokens" in said
    assert mean_ndcg(report.tuned.choice.baseline) == pytest.approx(served_ndcg(with_keywords))
    before, after = (TunedEmbeddings(str(folder)) for folder in (with_keywords, report.folder))
    assert after.dimension == 768
    assert ", 768 wide (736 of it keywords)" in summary(report)
    assert np.allclose(before.embed_query("when is the log kept"), after.embed_query("when is the log kept"), atol=1e-3)


def test_automatic_run_must_beat_the_base_with_its_keywords(with_keywords, tmp_path):
    said: list[str] = []
    automatic = Automatic(keywords="off")
    told = {"base": str(with_keywords), "config": CONFIG, "automatic": automatic, "say": said.append}
    report = train(TRAINING, VALIDATION, tmp_path / "again", **told)
    to_beat = served_ndcg(with_keywords)
    assert mean_ndcg(report.tuned.choice.baseline) == pytest.approx(to_beat)
    assert f"            ndcg@10 {to_beat:.3f} as it serves, with keywords: that is to be beaten" in said
    assert report.folder is None
    assert "validation prefers the base model, so nothing was written" in summary(report)
    assert "next" not in summary(report)


def test_what_keywords_find_anyway_need_not_be_beaten(tiny_base_folder, keywords):
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    alone = run.selection.baseline
    recipe._require_beating_base_as_served(run, Extras(keywords), ())
    assert mean_ndcg(run.to_beat) > mean_ndcg(alone)
    recipe._require_beating_base_as_served(run, Extras(keywords), set(CORPUS))
    assert run.to_beat == alone
    assert run.keywords is None


def test_guard_compares_keywords_with_the_base_as_it_serves_and_weights_with_its_weights(tiny_base_folder, keywords):
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG)
    guards_hold = recipe._watch(run, {"other": TRAINING}, Extras(keywords))
    assert guards_hold("the weights alone")
    run.keywords = replace(keywords, weight=0.0)
    assert not guards_hold("keywords that count for nothing")


def test_query_adapter_of_a_base_is_left_out_and_that_is_said(tiny_tuned_folder, tmp_path):
    adapt(TRAINING, None, tmp_path / "adapted", model=str(tiny_tuned_folder), keep_worse=True)
    said: list[str] = []
    told = {"base": str(tmp_path / "adapted"), "config": HARDLY, "keep_worse": True, "say": said.append}
    report = train(dataset(VERBS[6:8]), dataset(VERBS[8:]), tmp_path / "again", **told)
    assert "            its query adapter is left out, and what that adds is not compared with" in said
    assert TunedEmbeddings(str(report.folder)).query_adapter is None


def test_base_that_is_read_in_windows_is_compared_in_windows(tiny_base_folder, tmp_path):
    filling = " and what follows is only filling" * 4  # more than the 64 tokens that the tiny model reads
    long = {doc_id: f"{filling} {' '.join([text] * 5)}" for doc_id, text in CORPUS.items()}
    training, validation = replace(TRAINING, corpus=long), replace(VALIDATION, corpus=long)
    in_windows = Automatic(windows="mean", keywords="off")
    first, out = {"config": CONFIG, "keep_worse": True}, tmp_path / "first"
    train(training, validation, out, base=str(tiny_base_folder), automatic=in_windows, **first)
    to_beat = served_ndcg(out, validation)
    said: list[str] = []
    told = {"base": str(out), "config": HARDLY, "keep_worse": True, "say": said.append}
    kept = train(dataset(VERBS[:2]), validation, tmp_path / "kept", **told)
    assert kept.manifest["serving"]["reading"] == {"max_seq_length": 64, "windows": "mean"}
    assert f"base        {out}: 32 wide, reads 64 tokens, and longer chunks in windows" in said
    cut_off = Automatic(windows="off", keywords="off")
    anew = train(training, validation, tmp_path / "anew", automatic=cut_off, **{**told, "config": CONFIG})
    for report in (kept, anew):
        assert mean_ndcg(report.tuned.choice.baseline) == pytest.approx(to_beat)

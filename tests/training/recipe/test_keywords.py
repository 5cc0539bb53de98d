"""Keywords beside the vectors: put where they help, and left out where they harm."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.training.keywords import choice as keyword_choice
from docsgpt_embtune.training.keywords.choice import put_usual_keywords, weigh_keywords
from docsgpt_embtune.training.keywords.weights import WEIGHTS, WEIGHTS_BESIDE_TAUGHT
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.training.validation import score_vectors

from ..recipe_runs import CONFIG, CORPUS, VALIDATION, what_the_base_finds_first

pytestmark = pytest.mark.usefixtures("quick_learning")


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
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), asked, CONFIG, say=said.append)
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
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), asked, CONFIG)
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
    run = TuningRun.begin(model, dataset, CONFIG)
    weigh_keywords(run, corpus.values(), wide=False)
    assert run.keywords.width == 736
    assert not [c for c in run.selection.candidates if c.name.startswith("wide")]
    weigh_keywords(run, corpus.values())
    assert run.keywords.width == 1504
    assert run.selection.kept.name == f"wide keywords, {run.keywords.weight:.0%}"
    assert len(run.selection.candidates) == 2 * len(WEIGHTS)


def test_keywords_are_left_out_where_they_make_a_guard_worse(tiny_base_folder):
    said: list[str] = []
    run = TuningRun.begin(SentenceTransformer(str(tiny_base_folder), device="cpu"), VALIDATION, CONFIG, say=said.append)
    weigh_keywords(run, CORPUS.values(), guards_hold=lambda name: False)
    assert run.keywords is None
    assert run.selection.kept is None
    assert said[-1] == "keywords    left out: a guard got worse"
    tried = []
    weigh_keywords(run, CORPUS.values(), guards_hold=lambda name: bool(tried.append(name)) or len(tried) == 2)
    assert tried[1] != tried[0]
    assert run.selection.kept.name == tried[1]
    assert tried[1].endswith(f"keywords, {run.keywords.weight:.0%}")

"""A corpus that there is no time to read whole: which part is taken, and that it is said."""

import re
from dataclasses import replace

import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.training import large_corpora
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.large_corpora import as_time_allows, part_worth_ranking
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.recipe import Automatic
from docsgpt_embtune.training.train import train

ADJECTIVES = ["old", "new", "red", "big", "lost", "last", "first", "open", "spare", "slow", "plain", "dry", "wide"]
NOUNS = ["log", "worker", "password", "backup", "invoice", "memory", "account", "link", "disk", "customer", "shelf"]
VERBS = ["kept", "restarted", "reset", "verified", "cancelled", "written", "moved", "found", "sold", "hidden", "read"]
FACTS = [(a, n, v) for a in ADJECTIVES for n in NOUNS for v in VERBS]  # 1,573
CORPUS = {f"{a}-{n}-{v}": f"every night the {a} {n} is {v} here by hand" for a, n, v in FACTS}
NO_TIME, PLENTY = 1e-6, 1e6  # minutes


def questions(facts) -> RetrievalDataset:
    return RetrievalDataset(
        queries={f"q-{a}-{n}-{v}": f"when is the {a} {n} {v}" for a, n, v in facts},
        corpus=CORPUS,
        relevant_docs={f"q-{a}-{n}-{v}": (f"{a}-{n}-{v}",) for a, n, v in facts},
        irrelevant_docs={f"q-{a}-{n}-{v}": (f"{a}-{n}-{VERBS[VERBS.index(v) - 1]}",) for a, n, v in facts},
    )


TRAINING, VALIDATION, GUARD = questions(FACTS[::3]), questions(FACTS[1::3]), questions(FACTS[2::9])
MATERIAL = Material(TRAINING, VALIDATION, {"guard": GUARD})


@pytest.fixture
def encode(tiny_base_folder):
    return Encoder(SentenceTransformer(str(tiny_base_folder), device="cpu"), "fp32")


@pytest.fixture
def part(encode):
    return as_time_allows(MATERIAL, encode, NO_TIME, seed=13)


def test_a_corpus_that_there_is_time_for_is_left_as_it_is(encode):
    assert as_time_allows(MATERIAL, encode, PLENTY, seed=13) is MATERIAL


def test_a_small_corpus_and_few_questions_are_kept_however_short_the_time(encode):
    some = questions(FACTS[:90])
    small = Material(some, some, {})
    assert as_time_allows(small, encode, NO_TIME, seed=13) is not small  # 1,573 chunks are not few
    few = {doc_id: CORPUS[doc_id] for doc_id in list(CORPUS)[:900]}
    small = Material(None, large_corpora._over(some, set(few.values())), {})
    assert as_time_allows(small, encode, NO_TIME, seed=13) is small


def test_reading_that_takes_most_of_the_time_is_told_before_it(encode):
    few = questions(FACTS[:90])
    small = large_corpora._over(few, {CORPUS[doc_id] for doc_id in list(CORPUS)[:900]})
    for material in (MATERIAL, Material(None, small), Material(few, None)):
        said: list[str] = []
        as_time_allows(material, encode, NO_TIME, seed=13, whole_chunks=True, say=said.append)
        assert re.fullmatch(r"reading     takes \d+ s or more before anything is learned, of 0 s .*", said[-1])
        as_time_allows(material, encode, PLENTY, seed=13, say=said.append)
        assert len([line for line in said if line.startswith("reading ")]) == 1


def test_only_what_is_cut_is_named(encode):
    few = {doc_id: CORPUS[doc_id] for doc_id in list(CORPUS)[:900]}
    small = large_corpora._over(questions(FACTS[:90]), set(few.values()))
    guard = large_corpora._over(questions(FACTS[:300]), set(few.values()))
    materials = {
        r"100 of 300 questions of the guard 'other' and \d+ of 900 chunks of the guard 'other'": {
            "guards": {"other": guard}
        },
        r"100 of 300 validation questions": {"validation": guard},
    }
    for named, given in materials.items():
        said: list[str] = []
        as_time_allows(replace(Material(None, small), **given), encode, NO_TIME, seed=13, say=said.append)
        assert re.fullmatch(f"reads       {named}; more with a longer --time-budget", said[1])
    assert (
        large_corpora._described(Material(None, small, hardest=5), Material(None, small)) == large_corpora.NOTHING_CUT
    )


def test_a_guards_large_corpus_is_cut_beside_a_small_one(encode):
    few = {doc_id: CORPUS[doc_id] for doc_id in list(CORPUS)[:900]}
    small = large_corpora._over(questions(FACTS[:90]), set(few.values()))
    part = as_time_allows(Material(None, small, {"guard": questions(FACTS[::30])}), encode, NO_TIME, seed=13)
    assert part.validation.corpus == few
    assert len(part.guards["guard"].corpus) < len(CORPUS)


def test_part_holds_what_its_questions_are_judged_by(part):
    assert part.training is not None
    for dataset in (part.training, part.validation, part.guards["guard"]):
        judged = [*dataset.relevant_docs.values(), *dataset.irrelevant_docs.values()]
        assert {doc_id for doc_ids in judged for doc_id in doc_ids} <= set(dataset.corpus)


def test_part_is_as_large_as_there_is_room_for(part):
    assert is_about_as_large_as_can_be(part)
    assert part.training is not None
    assert len(part.training) == 300  # 600 chunks beside validation's, two for each
    assert len(part.validation) == len(part.guards["guard"]) == large_corpora.FEWEST_QUESTIONS
    assert len(part.guards["guard"].corpus) < len(CORPUS)


def test_chunks_ask_for_themselves_only_where_people_ask_too_little(encode, part):
    assert not part.asks_chunks
    few = replace(MATERIAL, training=questions(FACTS[::8]))
    part = as_time_allows(few, encode, NO_TIME, seed=13)
    assert part.asks_chunks
    assert part.training is not None
    assert part.training.queries == few.training.queries  # 197, of 200 that there is room for
    assert as_time_allows(replace(MATERIAL, training=None), encode, NO_TIME, seed=13).asks_chunks


def is_about_as_large_as_can_be(part: Material) -> bool:
    return large_corpora.FEWEST_CHUNKS <= len(part.chunks) <= 1.1 * large_corpora.FEWEST_CHUNKS


def test_validation_is_ranked_over_what_words_confuse_its_answers_with(part):
    nearest = retrieve_bm25(VALIDATION.subset(part.validation.queries), k=large_corpora.HARDEST_WHEN_CUT + 1).nearest
    doc_ids = list(CORPUS)
    assert {doc_ids[row] for row in nearest.ravel()} <= set(part.validation.corpus)


@pytest.mark.parametrize("effort", [large_corpora.CHUNKS_AND_QUESTIONS, large_corpora.QUESTIONS_ALONE])
def test_room_is_shared_out_among_what_is_read_and_what_is_ranked(effort):
    room = effort.room(40_000)
    assert effort.readings(room.chunks, room.judged) == pytest.approx(40_000, rel=0.01)


def test_the_same_seed_takes_the_same_part(encode, part):
    again = as_time_allows(MATERIAL, encode, NO_TIME, seed=13)
    assert again.validation.queries == part.validation.queries
    assert again.chunks == part.chunks
    assert as_time_allows(MATERIAL, encode, NO_TIME, seed=14).chunks != part.chunks


def test_a_run_that_goes_on_takes_the_part_that_it_began_with(encode, part, tmp_path):
    begun = as_time_allows(MATERIAL, encode, NO_TIME, seed=13, folder=tmp_path)
    gone_on = as_time_allows(MATERIAL, encode, PLENTY, seed=13, folder=tmp_path)  # as if the machine were quick now
    assert gone_on.chunks == begun.chunks == part.chunks


def test_part_for_a_few_questions_holds_what_is_judged_and_what_words_confuse_with_it():
    few = questions(FACTS[:20])
    assert part_worth_ranking(few, len(CORPUS), seed=13) is few
    part = part_worth_ranking(few, 200, seed=13)
    assert (part.queries, len(part.corpus)) == (few.queries, 200)
    judged = {
        doc_id for judged in (few.relevant_docs, few.irrelevant_docs) for ids in judged.values() for doc_id in ids
    }
    assert judged <= part.corpus.keys() < CORPUS.keys()
    nearest = retrieve_bm25(few, k=4)
    assert all(set(nearest.top(query_id, 4)) <= part.corpus.keys() for query_id in few.queries)
    assert len(part_worth_ranking(few, 10, seed=13).corpus) > 10


def test_where_bm25_has_no_room_it_searches_a_sample(encode, monkeypatch):
    searched: list[int] = []
    real = large_corpora.retrieve_bm25

    def counted(dataset, *, k):
        searched.append(len(dataset.corpus))
        return real(dataset, k=k)

    monkeypatch.setattr(large_corpora, "retrieve_bm25", counted)
    monkeypatch.setattr(large_corpora, "BM25_CHUNKS", 300)
    assert is_about_as_large_as_can_be(as_time_allows(MATERIAL, encode, NO_TIME, seed=13))
    assert 0 < max(searched) < len(CORPUS)


def test_a_run_says_what_it_had_no_time_to_read(tiny_base_folder, tmp_path):
    said: list[str] = []
    report = train(
        TRAINING,
        VALIDATION,
        tmp_path / "tuned",
        base=str(tiny_base_folder),
        config=TrainConfig(precision="fp32", device="cpu"),
        automatic=Automatic(minutes=0.001),
        keep_worse=True,
        say=said.append,
    )
    _, line = [line for line in said if line.startswith("reads")]
    assert "of 1,573 chunks, 100 of 524 validation questions and 300 of 525 training questions" in line
    assert read_manifest(tmp_path / "tuned")["validation"]["queries"] == 100
    assert set(report.tuned.choice.baseline["ndcg@10"]) <= set(VALIDATION.queries)

import json
from importlib import resources

import pytest

from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.data.sample import QUESTIONS, SPLITS, load_sample, write_sample


@pytest.fixture(scope="module")
def splits():
    return load_sample()


def test_every_label_finds_its_chunk(splits):
    # load_sample raises for a phrase that is in no chunk; what is left to check is that none was dropped.
    rows = json.loads((resources.files("docsgpt_embtune.data") / QUESTIONS).read_text(encoding="utf-8"))
    assert {split: len(dataset) for split, dataset in splits.items()} == {split: len(rows[split]) for split in SPLITS}


def test_there_are_enough_questions(splits):
    assert len(splits["train"]) >= 250
    assert len(splits["validation"]) >= 60
    assert len(splits["test"]) >= 120


def test_every_question_has_a_good_chunk_and_another_that_looks_right(splits):
    for dataset in splits.values():
        for query_id in dataset.queries:
            good, bad = dataset.relevant_docs[query_id], dataset.irrelevant_docs[query_id]
            assert 1 <= len(good) <= 3
            assert bad
            assert set(good).isdisjoint(bad)


def test_no_chunk_answers_questions_of_two_splits(splits):
    answers = {s: {d for ids in dataset.relevant_docs.values() for d in ids} for s, dataset in splits.items()}
    assert answers["train"].isdisjoint(answers["test"])
    assert answers["train"].isdisjoint(answers["validation"])
    assert answers["validation"].isdisjoint(answers["test"])


def test_no_question_stands_twice(splits):
    texts = [text.casefold() for dataset in splits.values() for text in dataset.queries.values()]
    assert len(set(texts)) == len(texts)


def test_questions_are_not_copied_from_their_chunk(splits):
    for dataset in splits.values():
        for query_id, text in dataset.queries.items():
            for doc_id in dataset.relevant_docs[query_id]:
                assert text.casefold() not in " ".join(dataset.corpus[doc_id].split()).casefold()


def test_written_files_are_what_train_reads(splits, tmp_path):
    write_sample(tmp_path)
    for split, dataset in splits.items():
        read = load_dataset(tmp_path / f"{split}.json", corpus=tmp_path / "corpus.json")
        assert read.fingerprint == dataset.fingerprint

"""Rows that come in during a run, or after it: embedded, mended and not thrown away."""

import pytest

from docsgpt_embtune.deployment import pgvector_store, vector_journal
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, same_vectors
from .tables import NAMES, add, overwrite, vectors


def test_rows_that_come_in_before_the_swap_are_embedded_too(uri, stores, stock, tuned):
    store = stores[0]
    store.build(tuned)
    add(uri, ["A chunk that came in between."], stock)
    store.swap(tuned)
    assert same_vectors(vectors(uri), tuned.embed([*CHUNKS, "A chunk that came in between."]))


def test_rows_added_since_are_not_thrown_away_by_a_rollback(uri, stores, tuned):
    store = stores[0]
    steps.reembed([store], tuned)
    add(uri, ["A chunk that came later."], tuned)
    with pytest.raises(DeploymentError, match="1 rows were added since"):
        steps.roll_back([store])
    with pytest.raises(DeploymentError, match="1 rows were added since"):
        store.roll_back()  # as when it came while the other stores were looked at
    assert len(vectors(uri)) == len(CHUNKS) + 1


def test_foreign_row_is_found_among_more_than_are_drawn(uri, stores, stock, tuned, monkeypatch):
    steps.reembed(stores[:1], tuned)
    monkeypatch.setattr(pgvector_store, "LATECOMERS_CHECKED", 1)
    assert stores[0].is_on(tuned)
    add(uri, ["A chunk of the old worker."], stock)
    assert not stores[0].is_on(tuned)


def test_rows_of_a_worker_that_was_not_restarted_are_mended(uri, stores, stock, tuned):
    store = stores[0]
    steps.reembed([store], tuned)
    add(uri, ["A chunk that came later."], tuned)
    assert store.is_on(tuned)
    add(uri, ["A chunk of the old worker.", "And another."], stock)
    assert [finding.problem for finding in examine(store, tuned, 2 * len(CHUNKS))] == ["mixed"]
    assert steps.plan([store], tuned)[0].remaining == 3
    assert steps.reembed([store], tuned) == [store]
    assert examine(store, tuned, 2 * len(CHUNKS)) == []
    assert steps.reembed([store], tuned) == []
    with pytest.raises(DeploymentError, match="3 rows were added since"):
        steps.roll_back([store])


def test_entities_that_such_a_worker_updates_are_mended(uri, stores, stock, tuned):
    store = stores[1]
    steps.reembed(stores, tuned)
    overwrite(uri, NAMES[:2], stock, "graph_nodes", "name_embedding", "name")
    assert [finding.problem for finding in examine(store, tuned)] == ["mixed"]
    assert steps.plan(stores, tuned)[1].remaining == 3
    assert steps.reembed(stores, tuned) == [store]
    assert examine(store, tuned) == []
    assert steps.reembed(stores, tuned) == []
    steps.roll_back(stores)
    assert examine(store, stock) == []


@pytest.mark.parametrize("blocks", [0, 1, 15, len(CHUNKS) // 2 - 1])
def test_mending_that_was_interrupted_goes_on(uri, stores, stock, tuned, monkeypatch, blocks):
    monkeypatch.setattr(pgvector_store, "LATECOMERS_CHECKED", 5)
    monkeypatch.setattr(vector_journal, "BLOCK", 2)
    store = stores[0]
    steps.reembed([store], tuned)
    overwrite(uri, CHUNKS, stock, "documents", "embedding", "text")
    left = iter(range(blocks))
    embed = type(tuned).embed_many
    monkeypatch.setattr(type(tuned), "embed_many", lambda model, texts: [next(left), embed(model, texts)][1])
    with pytest.raises(StopIteration):
        store.build(tuned)
    monkeypatch.setattr(type(tuned), "embed_many", embed)
    assert steps.reembed([store], tuned) == [store]
    assert same_vectors(vectors(uri), tuned.embed(CHUNKS))

import faiss
import numpy as np
import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.embeddings import StockEmbeddings
from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.evaluation.ranking import retrieve, search_exact, search_langchain
from tests.conftest import TEXTS
from tests.evaluation.keyword_embeddings import KeywordEmbeddings


def dataset(queries: list[str], corpus: list[str]) -> RetrievalDataset:
    return RetrievalDataset(
        queries={f"q{i}": text for i, text in enumerate(queries)},
        corpus={f"d{i}": text for i, text in enumerate(corpus)},
        relevant_docs={f"q{i}": ("d0",) for i in range(len(queries))},
    )


def shards(corpus: np.ndarray, size: int):
    for start in range(0, len(corpus), size):
        yield np.arange(start, min(start + size, len(corpus))), corpus[start : start + size]


def vectors(rows: int, seed: int, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)


def test_the_nearest_by_l2_comes_first_even_where_cosine_would_say_otherwise():
    model = KeywordEmbeddings(["log", "disk"])
    found = retrieve(model, dataset(["log"], ["log log log log", "log disk"]))
    # cosine: d0 1.0, d1 0.71; L2: d0 is 3 away, d1 only 1
    assert found.top("q0", 2) == ["d1", "d0"]


def test_equal_distances_stand_in_corpus_order_and_a_repeated_text_is_embedded_once():
    model = KeywordEmbeddings(["log", "disk"])
    found = retrieve(model, dataset(["log"], ["disk", "log", "disk", "log", "disk"]))
    assert found.top("q0", 5) == ["d1", "d3", "d0", "d2", "d4"]
    assert model.embedded == ["disk", "log"]


@pytest.mark.parametrize("shard", [7, 64, 1000])
def test_shards_find_what_one_index_finds(shard):
    queries, corpus = vectors(40, seed=0), vectors(500, seed=1)
    whole = faiss.IndexFlatL2(16)
    whole.add(corpus)
    assert (search_exact(queries, shards(corpus, shard), 100) == whole.search(queries, 100)[1]).all()


@pytest.mark.parametrize("k", [1, 5, 100, 120])
def test_ties_are_in_corpus_order_whatever_the_shard_and_the_depth(k):
    distinct = vectors(10, seed=2)
    corpus = np.tile(distinct, (12, 1))  # each vector twelve times
    found = search_exact(vectors(20, seed=3), shards(corpus, 32), k)
    distances = ((vectors(20, seed=3)[:, None] - distinct[None]) ** 2).sum(axis=2)
    expected = [sorted(range(120), key=lambda row: (distances[q, row % 10], row))[:k] for q in range(20)]
    assert found.tolist() == expected


@pytest.mark.parametrize("shard", [255, 301])
def test_copies_tie_wherever_they_stand(shard):
    """A matrix product of these sizes computes some copies in another order, and so to another last bit."""
    corpus = vectors(7, seed=8, dimension=768)[np.arange(4 * shard) % 7]  # over 20 copies of each in a shard
    for row in search_exact(vectors(238, seed=9, dimension=768), shards(corpus, shard), 20):
        assert (np.diff(row) == 7).all()  # the nearest vector's copies, in corpus order and none left out


def test_many_queries_at_once_rank_as_the_hosts_single_ones():
    queries, corpus = vectors(50, seed=4), vectors(300, seed=5)
    index = faiss.IndexFlatL2(16)
    index.add(corpus)
    alone = [index.search(query[None], 20)[1][0].tolist() for query in queries]
    assert search_exact(queries, shards(corpus, 99), 20).tolist() == alone


def test_langchain_ranks_alike(caplog):
    queries, corpus = vectors(30, seed=6), vectors(200, seed=7)
    assert (search_langchain(queries, corpus, 50) == search_exact(queries, shards(corpus, 99), 50)).all()
    assert not caplog.records


def test_both_stores_rank_a_real_model_alike(tiny_base_folder):
    model = StockEmbeddings(tiny_base_folder)
    data = dataset(["when are logs rotated", "reset a password", "cancel an invoice"], list(TEXTS))
    exact, langchain = retrieve(model, data), retrieve(model, data, store="langchain")
    assert (exact.nearest == langchain.nearest).all()
    assert exact.depth == len(TEXTS)


def test_the_run_holds_ranks_so_that_nothing_ties():
    found = retrieve(KeywordEmbeddings(["log"]), dataset(["log"], ["x", "x", "log"]))
    assert found.run(2) == {"q0": {"d2": -1.0, "d0": -2.0}}


def test_best_rank_is_of_the_first_that_is_found():
    found = retrieve(KeywordEmbeddings(["log"]), dataset(["log"], ["x", "log", "y"]), k=2)
    assert found.best_rank("q0", ["d0", "d1"]) == 1
    assert found.best_rank("q0", ["d0"]) == 2
    assert found.best_rank("q0", ["d2"]) is None


def test_a_vector_that_is_not_finite_names_its_text():
    model = KeywordEmbeddings(["log"], scale=float("inf"))  # no "log" in a text: inf * 0 is not a number
    with pytest.raises(EvaluationError, match=r"not finite for 1 of 1 texts \(first: 'rotate'\)"):
        retrieve(model, dataset(["rotate"], ["log"]))


def test_a_model_that_is_wrong_about_its_dimension_is_refused():
    model = KeywordEmbeddings(["log", "disk"])
    model.dimension = 3
    with pytest.raises(EvaluationError, match=r"width \[2\] for 1 texts, and says that its dimension is 3"):
        retrieve(model, dataset(["log"], ["log"]))


def test_cosine_is_ranked_beside_l2_for_a_model_that_is_not_unit_norm():
    found = retrieve(KeywordEmbeddings(["log", "disk"]), dataset(["log"], ["log log log log", "log disk"]))
    assert found.top("q0", 1) == ["d1"]
    assert found.by_cosine.top("q0", 1) == ["d0"]


def test_cosine_is_the_same_ranking_for_a_unit_norm_model(tiny_base_folder):
    found = retrieve(StockEmbeddings(tiny_base_folder), dataset(["reset a password"], list(TEXTS)))
    assert found.by_cosine is found


def test_model_of_nearly_unit_norm_is_ranked_by_cosine_too():
    found = retrieve(KeywordEmbeddings(["log", "disk"], scale=1.01), dataset(["log"], ["log", "disk"]))
    assert found.by_cosine is not found


def test_vectors_of_a_model_that_cannot_be_told_from_others_are_not_kept(tmp_path):
    data = dataset(["log"], ["log", "disk"])
    for words, nearest in ((["log", "disk"], "d0"), (["tape", "disk", "log"], "d0"), (["disk", "log"], "d0")):
        assert retrieve(KeywordEmbeddings(words), data, cache=tmp_path).top("q0", 1) == [nearest]
    assert not list(tmp_path.iterdir())

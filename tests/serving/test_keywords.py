"""Keywords beside meaning: products that are BM25's, unit norm, a folder without texts, and every way to serve it."""

import shutil
import tracemalloc
from dataclasses import replace

import bm25s
import numpy as np
import pytest

from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.evaluation.metrics import score_queries
from docsgpt_embtune.evaluation.ranking import retrieve
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.seen_questions import data_record
from docsgpt_embtune.serving.keywords import KEYWORDS_FILE, Keywords, _tokens, load_keywords
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.training.query_adapter.adapting import write_adapted_folder
from docsgpt_embtune.training.smaller.distillation import distill
from docsgpt_embtune.training.smaller.shrinking import shrink
from docsgpt_embtune.words import K1, B

from ..conftest import TEXTS

CHUNKS = {
    f"c{n}": f"Fehler {n:04d} tritt auf, wenn das Modul M{n % 7} nicht antwortet; siehe Seite {n}." for n in range(60)
}
EVERY_ERROR = RetrievalDataset(
    {f"q{n}": f"Was heißt Fehler {n:04d}?" for n in range(60)}, CHUNKS, {f"q{n}": (f"c{n}",) for n in range(60)}
)
ASKED = RetrievalDataset({"q": "Modul M3"}, CHUNKS, {"q": ("c3",)})
LONG = " ".join(TEXTS) * 3  # five times what the tiny model reads
QUESTIONS = [TEXTS[0], "Fehler 0042", "?!", LONG]


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})


@pytest.fixture(scope="module")
def folder(tiny_base_folder, tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    out = tmp_path_factory.mktemp("keywords") / "tuned"
    keywords = replace(Keywords.of([*CHUNKS.values(), *TEXTS], 32), weight=0.4)
    model = SentenceTransformer(str(tiny_base_folder), device="cpu")
    write_model_folder(model, tiny_base_folder, out, {}, keywords)
    return out


def test_text_without_spaces_is_found_by_pairs_of_characters_once_each():
    keywords = Keywords.of(["東京大学の図書館は月曜日に休みです", "京都の図書館は火曜日に休みです"], 384)
    assert keywords.of_question("東京大学").tokens == ["東京", "京大", "大学"]
    assert keywords.of_question("Tokyo 大学").tokens == ["tokyo", "tokyo…", "大学"]


def test_rarity_counts_chunks_and_length_counts_every_word():
    keywords = Keywords.of(["log log log disk", "log"], 384)
    occurs_in = dict(zip(keywords.known.tolist(), keywords.occurs_in.tolist(), strict=True))
    assert [occurs_in[keywords.of_question(word).keys[0]] for word in ("log", "disk")] == [2, 1]
    assert keywords.average_length == (8 + 2) / 2  # each word and its start


def test_words_of_a_question_and_of_a_chunk_weigh_together_what_bm25_makes_of_them():
    chunks = ["log log log disk", "log of a worker that restarts", "disk disk", "a", "the backup of the disk"]
    keywords, question = Keywords.of(chunks, 384), "disk disk log worker"
    theirs = bm25s.BM25(method="lucene", k1=K1, b=B)
    theirs.index([_tokens(text) for text in chunks], show_progress=False)
    asked = keywords.of_question(question)
    weights = dict(zip(asked.tokens, asked.weights.tolist(), strict=True))
    found = [keywords.of_chunk(text) for text in chunks]
    ours = [sum(weights.get(t, 0) * w for t, w in zip(words.tokens, words.weights, strict=True)) for words in found]
    assert ours == pytest.approx((K1 + 1) * theirs.get_scores(_tokens(question)), rel=1e-5)  # Lucene leaves that out


def test_long_text_takes_little_memory_and_is_laid_whole():
    keywords = Keywords.of(list(CHUNKS.values()), 384)
    words = keywords.of_question(" ".join(f"w{number}" for number in range(20_000)))
    tracemalloc.start()
    laid, _ = keywords._laid([words])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    directions = keywords._directions(words.tokens, words.keys)
    assert peak < directions.nbytes
    assert np.allclose(laid, words.weights[None] @ directions, rtol=0, atol=1e-5 * np.abs(words.weights).sum())


def test_products_order_chunks_as_bm25_does():
    """The directions are random, so that products are only nearly right: the best one of sixty must be the best."""
    keywords = Keywords.of(CHUNKS.values(), 384)
    found = keywords.of_questions(list(EVERY_ERROR.queries.values()))
    scores = found @ keywords.of_documents(list(CHUNKS.values())).T  # (60, 60)
    assert scores.argmax(axis=1).tolist() == list(range(60))
    by_words = set(retrieve_bm25(ASKED, k=9).nearest[0])
    assert by_words == set(np.argsort(-scores_of(keywords, "Modul M3"))[:9])


def scores_of(keywords, question):
    return (keywords.of_questions([question]) @ keywords.of_documents(list(CHUNKS.values())).T)[0]


def test_a_start_stands_in_for_the_stem():
    keywords = Keywords.of(["rotating the logs", "a page about bread"], 384)
    documents = keywords.of_documents(["rotating the logs", "a page about bread"])
    ours, other = (keywords.of_questions(["how is it rotated"]) @ documents.T)[0]
    assert ours > other + 0.1


def test_every_vector_has_norm_1_whatever_the_text():
    keywords = Keywords.of(CHUNKS.values(), 384)
    texts = ["", "?!", "neu", CHUNKS["c3"], CHUNKS["c3"] * 50, "数据备份", "\ud800"]
    for part in (keywords.of_documents(texts), keywords.of_questions(texts)):
        assert part.dtype == np.float32
        assert np.allclose(np.linalg.norm(part, axis=1), 1.0, atol=1e-5)


def test_learned_stress_counts_for_the_known_words_of_questions_alone():
    plain = Keywords.of(CHUNKS.values(), 384)
    stressed = replace(plain, stresses=np.full(len(plain.known), 2, dtype=np.float32))
    asked = plain.of_question("Fehler im Dingsda")
    factors = np.where(np.isin(asked.keys, plain.known), 2, 1)
    assert set(factors) == {1, 2}
    assert np.allclose(stressed.of_question("Fehler im Dingsda").weights, factors * asked.weights)
    assert np.allclose(stressed.of_chunk(CHUNKS["c3"]).weights, plain.of_chunk(CHUNKS["c3"]).weights)
    with pytest.raises(ValueError, match="1 stresses for"):
        replace(plain, stresses=stressed.stresses[:1])


def test_question_without_words_is_left_to_the_model():
    keywords = Keywords.of(CHUNKS.values(), 384)
    assert np.allclose(scores_of(keywords, "?!"), 0.0)


def test_corpus_without_a_word():
    keywords = Keywords.of(["", "?"], 384)
    assert np.allclose(np.linalg.norm(keywords.of_questions(["what"]), axis=1), 1.0)
    assert np.allclose(np.linalg.norm(keywords.of_documents(["?"]), axis=1), 1.0)


def test_no_more_than_the_longest_tenth_of_the_chunks_is_cut_to_unit_length():
    chunks = [" ".join(f"word{n}of{length}" for n in range(length)) for length in range(1, 101)]
    padding = Keywords.of(chunks, 384).of_documents(chunks)[:, -2]
    assert np.count_nonzero(padding < 1e-3) == 10


@pytest.mark.parametrize(
    ("model_width", "width", "wide"),
    [(384, 384, 1152), (32, 736, 1504), (512, 256, 1024), (513, 384, 1023), (768, 384, 768), (1024, 384, 768)],
)
def test_vectors_are_768_or_1536_wide_where_the_model_leaves_enough_of_that(model_width, width, wide):
    keywords = Keywords.of(["one"], model_width)
    assert (keywords.width, keywords.wider(model_width).width) == (width, wide)


def test_wider_ones_mistake_other_words_less():
    keywords = Keywords.of(CHUNKS.values(), 384)
    foreign = [f"woanders{n} steht nichts{n} davon{n}" for n in range(200)]
    narrow, wide = (
        np.abs(each.of_questions(["Fehler 0042"]) @ each.of_documents(foreign).T).mean()
        for each in (keywords, keywords.wider(384))
    )
    assert wide < 0.75 * narrow  # the root of a third, in the mean


def test_folder_tells_of_no_word_and_gives_the_same_keywords_again(folder):
    content = (folder / KEYWORDS_FILE).read_bytes()
    assert b"fehler" not in content.lower()
    again, made = load_keywords(folder), replace(Keywords.of([*CHUNKS.values(), *TEXTS], 32), weight=0.4)
    assert np.array_equal(again.of_documents(TEXTS), made.of_documents(TEXTS))
    assert again.weight == 0.4


def test_they_belong_to_the_fingerprint(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    replace(load_keywords(changed), weight=0.5).write(changed)
    assert fingerprint(changed) != fingerprint(folder)
    with pytest.raises(ModelFolderError, match="not the model that its"):
        TunedEmbeddings(str(changed))
    (changed / KEYWORDS_FILE).write_bytes(b"half")
    with pytest.raises(ModelFolderError, match="the keywords cannot be read"):
        load_keywords(changed)


def test_served_vectors_hold_the_models_and_the_keywords(folder):
    tuned, stock = TunedEmbeddings(str(folder)), StockEmbeddings(folder)
    assert tuned.dimension == read_manifest(folder)["dimension"] == 768
    vectors = np.array(tuned.embed_documents([*TEXTS, *CHUNKS.values()]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    dense = np.array(stock.embed_documents([*TEXTS, *CHUNKS.values()]))
    assert np.allclose(vectors[:, :32], np.sqrt(0.6) * dense, atol=1e-6)
    question = np.array(tuned.embed_query("Fehler 0042"))
    assert np.linalg.norm(question) == pytest.approx(1.0, abs=1e-5)
    assert int((vectors @ question).argmax()) == len(TEXTS) + 42
    dataset = RetrievalDataset({"q": "Fehler 0042"}, CHUNKS, {"q": ("c42",)})
    assert retrieve(tuned, dataset).nearest[0, 0] == 42


def test_large_amounts_and_an_exported_graph_give_the_same_vectors(folder, tmp_path):
    exported = shutil.copytree(folder, tmp_path / "exported")
    export(exported)
    onnx, torch = (TunedEmbeddings(str(exported), engine=engine) for engine in ("onnx", "torch"))
    texts = [*TEXTS, *CHUNKS.values(), LONG]
    expected = np.array(torch.embed_documents(texts))
    assert np.allclose(onnx.embed_documents(texts), expected, atol=1e-4)
    assert np.allclose(load_deployed_model(str(folder)).embed_many(texts), expected, atol=2e-2)  # bf16 where it pays
    assert np.allclose([onnx.embed_query(q) for q in QUESTIONS], [torch.embed_query(q) for q in QUESTIONS], atol=1e-4)


def test_query_adapter_maps_the_whole_vector(folder, tmp_path):
    serving = load_deployed_model(str(folder))
    texts = list(CHUNKS.values())
    turned = QueryAdapter(np.eye(768, dtype=np.float32)[::-1].copy())
    write_adapted_folder(serving, tmp_path / "adapted", turned, {}, (texts, serving.embed(texts)), learned=())
    adapted = TunedEmbeddings(str(tmp_path / "adapted"))
    assert adapted.fingerprint == serving.fingerprint
    assert np.allclose(adapted.embed_query("Fehler 7"), serving.embeddings.embed_query("Fehler 7")[::-1], atol=1e-6)


def test_cut_vectors_keep_them(folder, tmp_path):
    with pytest.raises(ModelFolderError, match=r"is 768 wide \(736 of it keywords\) .* set --width to 737 up to 767"):
        shrink(folder, EVERY_ERROR, tmp_path / "cut", width=736)
    report = shrink(folder, EVERY_ERROR, tmp_path / "cut", width=744)
    assert report.manifest["dimension"] == 744
    cut, whole = (np.array(TunedEmbeddings(str(each)).embed_documents(TEXTS)) for each in (report.folder, folder))
    assert np.allclose(cut[:, 8:], whole[:, 32:], atol=1e-6)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1.0, atol=1e-5)
    measured = {trial.name: trial.scores["ndcg@10"] for trial in report.decision.trials}[report.decision.chosen]
    assert ndcg(TunedEmbeddings(str(report.folder))) == pytest.approx(measured)


def test_cut_is_measured_by_meaning_where_chunks_are_asked_for_by_their_words(folder, tmp_path):
    learned = shutil.copytree(folder, tmp_path / "learned")
    write_manifest(learned, {**read_manifest(folder), "data": data_record(EVERY_ERROR, None)})
    whole = shrink(learned, EVERY_ERROR, tmp_path / "cut", width=744).decision.trials[0]
    of_chunks = asked_by_their_words(folder, Reading.of(read_manifest(folder)), CHUNKS)
    # Some nearly tie, and which is first differs from processor to processor.
    assert whole.scores["ndcg@10"] == pytest.approx(ndcg(StockEmbeddings(folder), of_chunks), abs=0.03)
    assert ndcg(TunedEmbeddings(str(folder)), of_chunks) > whole.scores["ndcg@10"] + 0.1


def test_static_model_has_them_at_a_weight_of_its_own(folder, tiny_base_folder, tmp_path):
    report = distill(folder, ASKED, EVERY_ERROR, tmp_path / "static", baseline=str(tiny_base_folder))
    keywords = load_keywords(report.folder)
    assert report.decision.chosen.endswith(f", keywords {keywords.weight:.0%}")
    assert report.manifest["keywords"]["weight"] == keywords.weight
    _, tuned, *_, chosen = report.decision.trials
    assert ndcg(TunedEmbeddings(str(folder))) == pytest.approx(tuned.scores["ndcg@10"])
    assert ndcg(TunedEmbeddings(str(report.folder))) == pytest.approx(chosen.scores["ndcg@10"])


def ndcg(embeddings, asked=EVERY_ERROR):
    scores = score_queries(retrieve(embeddings, asked), asked.qrels, (10,))
    return np.mean(list(scores["ndcg@10"].values()))

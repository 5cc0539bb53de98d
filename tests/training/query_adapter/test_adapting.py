"""The query adapter: it learns, ships only what validation prefers, and leaves every stored vector as it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import approx_fprime
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.adapter import ADAPTER_FILE, QueryAdapter, load_query_adapter
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest, save_dataset
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.deployment.doctor import examine
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import DatasetError, ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.best_of_many import mean_ndcg
from docsgpt_embtune.evaluation.retrieval_check import check_retrieval
from docsgpt_embtune.evaluation.summary import truncation_in_words
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import document_fingerprint, fingerprint, verify
from docsgpt_embtune.seen_questions import without_learned
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.keywords.fitting import NARROW, STRESSED, KeywordFitting
from docsgpt_embtune.training.keywords.weights import WEIGHTS
from docsgpt_embtune.training.query_adapter import fitting as adapter_fitting
from docsgpt_embtune.training.query_adapter.adapting import adapt, summary
from docsgpt_embtune.training.query_adapter.fitting import PATIENCE, STRENGTHS, _Objective, fit_adapter
from docsgpt_embtune.training.train import train
from docsgpt_embtune.vectors import unit_norm

from ...conftest import TEXTS
from ...deployment.conftest import write_index_folder
from ...sample_questions import TRAINING, VALIDATION, dataset

DIMENSION = 16


@pytest.fixture
def rotated():
    """Questions that lie where their chunks would be, had somebody not turned the space."""
    rng = np.random.default_rng(0)
    turn = np.eye(DIMENSION) + 0.25 * rng.standard_normal((DIMENSION, DIMENSION))

    chunks = unit_norm(rng.standard_normal((200, DIMENSION))).astype(np.float32)
    asked = unit_norm(chunks @ turn.T + 0.02 * rng.standard_normal(chunks.shape)).astype(np.float32)
    questions = RetrievalDataset(
        queries={f"q{n}": f"question {n}" for n in range(200)},
        corpus={f"d{n}": f"chunk {n}" for n in range(200)},
        relevant_docs={f"q{n}": (f"d{n}",) for n in range(200)},
        sources=("rotated.json",),
    )
    return questions, asked, chunks


def test_learns_a_map_that_holds_for_questions_that_it_was_fitted_without(rotated):
    report = fit_adapter(*rotated)
    assert report.improved
    assert mean_ndcg(report.choice.chosen) > 0.05 + mean_ndcg(report.choice.baseline)
    _, asked, _ = rotated
    one_by_one = [report.adapter(question) for question in asked[:50].tolist()]
    assert report.adapter.map(asked[:50]) == pytest.approx(np.array(one_by_one), abs=1e-6)


def test_the_map_is_of_the_strength_that_is_reported(rotated):
    report = fit_adapter(*rotated)
    objective = _Objective.of(*rotated, seed=0)
    off = {
        strength: np.abs(objective.minimum(strength, start=np.eye(DIMENSION)) - report.adapter.matrix).max()
        for strength in STRENGTHS
    }
    assert min(off, key=off.get) == report.strength != STRENGTHS[0]


def test_questions_about_one_answer_are_in_one_fold(rotated):
    questions, asked, chunks = rotated
    answers = {query_id: (f"d{int(query_id[1:]) // 4}",) for query_id in questions.queries}
    questions = replace(questions, relevant_docs=answers)
    folds = adapter_fitting._folds(questions, asked, chunks, _Objective.of(questions, asked, chunks, seed=0))
    assert sorted(query_id for fold in folds for query_id in fold.held_out.queries) == sorted(questions.queries)
    for fold in folds:
        asked_for = {answers[query_id][0] for query_id in fold.held_out.queries}
        learned = {f"d{row}" for rows in fold._objective.good for row in rows}
        assert len(asked_for) + len(learned) == len(asked_for | learned) == 50
    assert fit_adapter(questions, asked, chunks).choice.judgment.groups == 50


def test_words_of_a_folds_own_questions_teach_nothing_that_they_are_asked_with(rotated):
    questions, asked, chunks = rotated
    drawn = np.random.default_rng(1)
    texts = [" ".join(f"word{row:02}" for row in drawn.choice(40, 5, replace=False)) for _ in range(200)]
    named = replace(
        questions,
        queries={f"q{n}": f"{' '.join(text.split()[:3])} q{n}" for n, text in enumerate(texts)},
        corpus={f"d{n}": f"{text} d{n}" for n, text in enumerate(texts)},
    )
    fitting = KeywordFitting.of(named.corpus.values(), DIMENSION)
    stressed = f"{STRESSED} {NARROW}"
    for fold in adapter_fitting._folds(named, asked, chunks, _Objective.of(named, asked, chunks, seed=0)):
        fold.score_map_of(1.0)
        others = named.subset(query_id for query_id in named.queries if query_id not in fold.held_out.queries)
        stresses = fold.unseen(0, fitting).kinds[stressed].stresses
        assert np.array_equal(stresses, fitting.kinds(others)[stressed].stresses)
        assert not np.allclose(stresses, fitting.kinds(fold.held_out)[stressed].stresses, atol=0.01)


def test_map_is_of_the_strength_that_validation_prefers(rotated):
    questions, asked, chunks = rotated
    questions, asked = questions.subset(list(questions.queries)[:15]), asked[:15]
    report = fit_adapter(questions, asked, chunks)
    gains = [mean_ndcg(scores) for scores in report.choice.tried]
    assert gains[2] <= gains[1] < gains[4]  # one without improvement does not end the search
    assert report.strength == STRENGTHS[int(np.argmax(gains))] == STRENGTHS[4]
    objective = _Objective.of(questions, asked, chunks, seed=0)
    change = (report.adapter.matrix - np.eye(DIMENSION)) @ objective.basis
    slopes = {each: np.abs(objective.value_and_gradient(change, each)[1]).max() for each in STRENGTHS}
    assert min(slopes, key=slopes.get) == report.strength


def test_where_all_ask_in_the_same_words_no_fold_has_anything_to_learn_from(rotated):
    questions, asked, chunks = rotated
    same = replace(questions, queries=dict.fromkeys(questions.queries, "How?"))
    report = fit_adapter(same, asked, chunks)
    assert all(scores == report.choice.baseline for scores in report.choice.tried)
    assert not report.choice.is_higher
    assert report.strength == STRENGTHS[0]  # of equal ones, that which changes least
    assert len(report.choice.tried) == 1 + PATIENCE


def test_what_luck_can_do_is_not_an_improvement(rotated):
    questions, asked, chunks = rotated
    rng = np.random.default_rng(3)
    some = questions.subset(list(questions.queries)[:60])
    found = []
    for _ in range(20):
        answers = dict(zip(some.queries, [(f"d{row}",) for row in rng.permutation(60)], strict=True))
        found.append(fit_adapter(replace(some, relevant_docs=answers), asked[:60], chunks))
    assert sum(report.choice.is_higher for report in found) > 4  # a twentieth and more of them, were it enough
    assert sum(report.improved for report in found) <= 1
    lucky = next(report for report in found if report.choice.is_higher and not report.improved)
    assert "no model    this could be luck" in summary(lucky)


@pytest.mark.parametrize("blurred", [True, False])
def test_keywords_stand_beside_where_questions_gain_by_them(rotated, blurred):
    questions, asked, chunks = rotated
    named = replace(
        questions,
        queries={f"q{n}": f"what does code{n:03} mean" for n in range(200)},
        corpus={f"d{n}": f"the light blinks, code{n:03} is shown" for n in range(200)},
    )
    noise = 0.3 * np.random.default_rng(2).standard_normal(asked.shape, dtype=np.float32)
    seen = unit_norm(asked + noise) if blurred else chunks
    report, alone = (fit_adapter(named, seen, chunks, keywords=keywords) for keywords in (True, False))
    assert (report.keywords is not None) is blurred
    assert np.array_equal(report.adapter.matrix, alone.adapter.matrix)
    gain = mean_ndcg(report.choice.chosen) - mean_ndcg(alone.choice.chosen)
    assert gain > 0.1 if blurred else gain == 0
    assert len(report.choice.tried) > len(alone.choice.tried)  # luck may make any of them the best


def test_keywords_that_tell_nothing_are_left_out_beside_a_map_that_tells_much(rotated):
    questions, asked, chunks = rotated
    wordless = replace(questions, corpus={f"d{n}": "?" * (n + 1) for n in range(200)})
    report, alone = (fit_adapter(wordless, asked, chunks, keywords=keywords) for keywords in (True, False))
    assert alone.improved
    beside = report.choice.tried[len(alone.choice.tried) :]
    assert [mean_ndcg(scores) for scores in beside] == pytest.approx([mean_ndcg(alone.choice.chosen)] * len(WEIGHTS))
    assert report.keywords is None


def test_keywords_are_of_the_kind_and_weight_that_answered_best(rotated):
    """Half of the chunks share a name with a good one, and a word of every question that only misleads."""
    questions, asked, chunks = rotated
    named = replace(
        questions.subset(f"q{n}" for n in range(100)),
        queries={f"q{n}": f"tell name{n:02}" for n in range(100)},
        corpus={f"d{n}": f"name{n % 100:02} {'stands here' if n < 100 else 'tell'}" for n in range(200)},
    )
    noise = 0.3 * np.random.default_rng(2).standard_normal((100, DIMENSION), dtype=np.float32)
    report = fit_adapter(named, unit_norm(asked[:100] + noise), chunks, keywords=True)
    plain, stressed = np.reshape(list(map(mean_ndcg, report.choice.tried[-2 * len(WEIGHTS) :])), (2, len(WEIGHTS)))
    assert plain.max() < stressed.max() == mean_ndcg(report.choice.chosen)
    assert report.keywords.weight == WEIGHTS[stressed.argmax()]
    tell = report.keywords.known == report.keywords.of_question("tell").keys[0]
    assert report.keywords.stresses[tell] < 0.9


def test_gradient_is_the_slope_of_the_loss(rotated, monkeypatch):
    monkeypatch.setattr(adapter_fitting, "_ROWS", 4)  # three parts of ten questions
    questions, asked, chunks = rotated
    chunks[149] = asked[0]
    both = {f"q{n}": (f"d{n}", f"d{n + 100}") for n in range(10)}
    training = replace(questions.subset(both), relevant_docs=both)
    objective = _Objective.of(training, asked[:10].astype(np.float64), chunks, seed=0)
    near_duplicate = _Objective(
        objective.query_embeddings, objective.chunk_embeddings, objective.good, [np.array([149])] * 10
    )
    at = 0.1 * np.random.default_rng(1).standard_normal((DIMENSION, 10))
    value, gradient = near_duplicate.value_and_gradient(at, 30.0)
    slope = approx_fprime(
        at.ravel(), lambda flat: near_duplicate.value_and_gradient(flat.reshape(at.shape), 30.0)[0], 1e-3
    )
    assert gradient == pytest.approx(slope, abs=0.02 * np.abs(slope).max())
    without = replace(objective, chunk_embeddings=np.delete(objective.chunk_embeddings, 149, axis=0))
    assert value == pytest.approx(without.value_and_gradient(at, 30.0)[0], rel=1e-5)


def test_few_questions_get_the_map_that_a_search_among_all_maps_finds(rotated):
    questions, asked, chunks = rotated
    few = questions.subset(list(questions.queries)[:10])
    found, among_all = (_Objective.of(few, asked[:10], chunks, seed=0) for _ in range(2))
    vars(among_all)["basis"] = np.eye(DIMENSION, dtype=np.float32)
    assert found.basis.shape == (DIMENSION, 10)
    start = np.eye(DIMENSION, dtype=np.float32)
    matrix = found.minimum(0.3, start)
    assert np.abs(matrix - start).max() > 0.1
    assert np.allclose(matrix, among_all.minimum(0.3, start), atol=2e-3)


def test_near_duplicates_of_an_answer_are_not_pushed_away(rotated):
    questions, asked, chunks = rotated
    corpus = chunks.copy()
    corpus[7] = corpus[3]
    also_good = {**questions.relevant_docs, "q3": ("d3", "d50")}
    objective = _Objective.of(replace(questions, relevant_docs=also_good), asked, corpus, seed=0)
    assert objective.ignored[3].tolist() == [7]
    assert objective.good[3].tolist() == [3, 50]


def test_a_sampled_corpus_keeps_what_is_judged_and_what_is_hard(rotated, monkeypatch):
    monkeypatch.setattr(adapter_fitting, "MAX_CHUNKS", 20)
    monkeypatch.setattr(adapter_fitting, "HARDEST_PER_QUERY", 2)
    questions, asked, chunks = rotated
    good = {f"q{n}": (f"d{n + 100}",) for n in range(3)}  # far from what asks for them
    bad = {"q0": tuple(f"d{n}" for n in range(150, 160))}
    few = replace(questions.subset(good), relevant_docs=good, irrelevant_docs=bad)
    objective = _Objective.of(few, asked[:3], chunks, seed=0)
    assert 20 <= len(objective.chunk_embeddings) <= 20 + 3 + 10 + 6
    assert all((objective.chunk_embeddings == chunks[row]).all(axis=1).any() for row in range(150, 160))
    for question, rows in enumerate(objective.good):
        assert np.array_equal(objective.chunk_embeddings[rows[0]], chunks[question + 100])
        hardest = chunks[np.argmax(chunks @ asked[question])]
        assert (objective.chunk_embeddings == hardest).all(axis=1).any()


@pytest.fixture(scope="module")
def adapted(tiny_base_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "handbook"
    return adapt(TRAINING, VALIDATION, out, model=str(tiny_base_folder), keep_worse=True)


def test_question_of_both_files_is_asked_once_and_nothing_held_against_it(tiny_base_folder, tmp_path):
    said = []
    options = {"model": str(tiny_base_folder), "keep_worse": True, "say": said.append}
    report = adapt(TRAINING, dataset(), tmp_path / "out", **options)
    assert len(dataset()) == report.choice.judgment.queries
    assert set(said[0].split()) >= {"questions", "60"}
    assert not any("validation" in line for line in said)


def test_questions_move_and_chunks_stay(adapted, tiny_base_folder):
    base, tuned = StockEmbeddings(tiny_base_folder), TunedEmbeddings(str(adapted.folder))
    question = "when is the log kept"
    assert np.allclose(tuned.embed_documents(list(TEXTS)), base.embed_documents(list(TEXTS)), atol=1e-6)
    assert tuned.embed_query(question) == pytest.approx(adapted.adapter(base.embed_query(question)), abs=1e-5)
    assert tuned(question) == tuned.embed_query(question)
    assert np.linalg.norm(tuned.embed_query(question)) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(tuned.embed_query(question), base.embed_query(question), atol=1e-3)


def test_export_is_not_advised_where_it_would_leave_chunks_cut(adapted, tiny_base_folder, tmp_path):
    cut = "the log is kept every night " * 60
    asked = RetrievalDataset(queries={"q": "logs"}, corpus={"d": cut, "e": "disk"}, relevant_docs={"q": ("d",)})
    report = check_retrieval(tiny_base_folder, adapted.folder, asked, cache=tmp_path / "cache")
    of_check = truncation_in_words(report.truncation)
    index = write_index_folder(tmp_path / "handbook", load_deployed_model(str(tiny_base_folder)), [cut] * 5)
    (finding,) = examine(FaissStore(index), load_deployed_model(str(adapted.folder)))
    assert "chunks of at most 51 tokens" in of_check
    assert "export" not in of_check
    assert "upload with smaller chunks" in finding.message
    assert "export" not in finding.message


def test_without_the_plugin_the_folder_is_the_base_model(adapted, tiny_base_folder):
    question = "when is the log kept"
    stock = StockEmbeddings(adapted.folder).embed_query(question)
    assert stock == pytest.approx(StockEmbeddings(tiny_base_folder).embed_query(question), abs=1e-6)


def test_adapter_that_is_not_the_one_that_was_written_or_does_not_fit_is_refused(tmp_path):
    identity = np.eye(4, dtype=np.float32)
    manifest = {"dimension": 4, "query_adapter": QueryAdapter(identity).write(tmp_path)}
    assert (load_query_adapter(tmp_path, manifest).matrix == identity).all()
    with pytest.raises(ModelFolderError, match=r"a map of \(4, 4\) for vectors 5 wide; adapt the model again"):
        load_query_adapter(tmp_path, {**manifest, "dimension": 5})
    QueryAdapter(identity[::-1]).write(tmp_path)
    with pytest.raises(ModelFolderError, match=r"not the query adapter that was written .*copy the folder again"):
        load_query_adapter(tmp_path, manifest)


def test_stored_vectors_of_the_base_count_as_right(adapted, tiny_base_folder, tmp_path):
    base, tuned = load_deployed_model(str(tiny_base_folder)), load_deployed_model(str(adapted.folder))
    store = FaissStore(write_index_folder(tmp_path / "handbook", base))
    assert [finding.problem for finding in examine(store, tuned)] == [
        finding.problem for finding in examine(store, base)
    ]
    steps.reembed([store], base)
    assert store.is_on(tuned)
    assert steps.reembed([store], tuned) == []
    assert document_fingerprint(adapted.folder) == fingerprint(tiny_base_folder)
    assert verify(adapted.folder)["fingerprint"] != fingerprint(tiny_base_folder)


def test_check_compares_it_and_embeds_the_corpus_once(adapted, tiny_base_folder, tmp_path, monkeypatch):
    embedded = []
    stock_embed_documents = StockEmbeddings.embed_documents
    monkeypatch.setattr(
        StockEmbeddings,
        "embed_documents",
        lambda self, texts: embedded.extend(texts) or stock_embed_documents(self, texts),
    )
    test = dataset(nouns=["log", "worker", "invoice"], verbs=["verified twice"])
    report = check_retrieval(tiny_base_folder, adapted.folder, test, guards={"same": test}, cache=tmp_path)
    assert report.main.judgment.queries == 3
    assert sorted(embedded) == sorted(test.corpus.values())


def test_manifest_names_what_the_adapter_learned_from(adapted):
    seen = read_manifest(adapted.folder)["data"]["seen_queries"]
    assert {query_digest(text) for text in (*TRAINING.queries.values(), *VALIDATION.queries.values())} == set(seen)


def test_adapting_a_tuned_model_keeps_what_it_says_of_itself(tiny_tuned_folder, tmp_path):
    base = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    manifest = read_manifest(base)
    manifest["data"] = {"training": {"queries": 1}, "seen_queries": ["00", "01"]}
    (base / "embtune.json").write_text(json.dumps(manifest))
    (base / ".onnx.killed.partial").mkdir()
    report = adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(base), keep_worse=True)
    assert list(report.folder.glob(".*")) == []
    written = read_manifest(report.folder)
    assert written["base"] == {"name": "tiny"}
    assert written["data"]["training"] == {"queries": 1}
    assert {"00", "01", query_digest("when is the log kept")} <= set(written["data"]["seen_queries"])
    assert document_fingerprint(report.folder) == manifest["fingerprint"]


def test_stored_chunks_are_told_apart_by_how_they_are_read_with_an_adapter_as_without(tiny_exported_folder, tmp_path):
    base = shutil.copytree(tiny_exported_folder, tmp_path / "tuned")
    export(base, windows="mean", max_seq_length=32)
    adapted = adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(base), keep_worse=True).folder
    stored, unread = (load_deployed_model(str(folder)).fingerprint for folder in (base, tiny_exported_folder))
    assert load_deployed_model(str(adapted)).fingerprint == stored
    assert stored != unread
    export(adapted)
    assert load_deployed_model(str(adapted)).fingerprint == stored


def test_export_leaves_chunks_as_they_are_read_where_an_adapter_counts_on_it(tiny_exported_folder, tmp_path):
    adapted = adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(tiny_exported_folder), keep_worse=True).folder
    before = load_deployed_model(str(adapted)).fingerprint
    asked = dataset(nouns=["log", "worker", "invoice"], verbs=["verified twice"])
    long = replace(asked, corpus={doc_id: f"{'at length ' * 60}{text}" for doc_id, text in asked.corpus.items()})
    report = export(adapted, long)
    assert [decision.trials[0].name for decision in report.decisions] == ["onnx"]  # none is about windows
    assert load_deployed_model(str(adapted)).fingerprint == before
    with pytest.raises(
        ModelFolderError, match=r"has a query adapter, for which stored chunks stay .*; leave out --win"
    ):
        export(adapted, windows="mean")


def test_questions_that_chose_the_model_count_as_learned_once_an_adapter_learned_from_them(tiny_base_folder, tmp_path):
    config = TrainConfig(epochs=1, precision="fp32", device="cpu")
    base = train(
        TRAINING, VALIDATION, tmp_path / "tuned", base=str(tiny_base_folder), config=config, keep_worse=True
    ).folder
    assert without_learned(VALIDATION, read_manifest(base)) == VALIDATION
    others = dataset(verbs=["cleaned"])
    with_them, without_them = (
        adapt(others, chosen, tmp_path / name, model=str(base), keep_worse=True).folder
        for name, chosen in (("with", VALIDATION), ("without", None))
    )
    assert not len(without_learned(VALIDATION, read_manifest(with_them)))
    assert without_learned(VALIDATION, read_manifest(without_them)) == VALIDATION


def test_what_the_model_has_by_heart_neither_teaches_nor_chooses(tiny_tuned_folder, tmp_path):
    base = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    manifest = read_manifest(base)
    manifest["data"] = {"seen_queries": sorted(query_digest(text) for text in TRAINING.queries.values())}
    (base / "embtune.json").write_text(json.dumps(manifest))
    said = []
    report = adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(base), say=said.append)
    assert "left out    40 questions that the model learned from" in said
    assert report.choice.judgment.queries == len(VALIDATION)
    with pytest.raises(TrainingError, match="learned from 40 of 40 questions, which leaves 0 answers to choose by"):
        adapt(TRAINING, None, tmp_path / "out", model=str(base))


@pytest.fixture
def copied(adapted, tmp_path):
    return shutil.copytree(adapted.folder, tmp_path / "copied")


def test_a_second_adapter_is_refused(copied, tmp_path):
    with pytest.raises(ModelFolderError, match="has a query adapter already"):
        adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(copied))


def test_model_whose_vectors_no_folder_would_keep_is_refused_before_the_corpus_is_embedded(tiny_base_folder, tmp_path):
    model = SentenceTransformer(str(tiny_base_folder), device="cpu", truncate_dim=16)
    model.save(str(tmp_path / "cut"))
    SentenceTransformer(modules=list(model)[:2], device="cpu").save(str(tmp_path / "long"))
    for name, fault in (
        ("cut", r"cuts its vectors to 16 numbers \(truncate_dim\).*; tune the model"),
        ("long", r"gives vectors of length \d\.\d+, and .* of length 1 alone; tune the model"),
    ):
        with pytest.raises(ModelFolderError, match=fault):
            adapt(TRAINING, VALIDATION, tmp_path / "out", model=str(tmp_path / name), keep_worse=True)


def test_model_to_begin_with_is_not_written_over(tiny_tuned_folder, tmp_path):
    tuned = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    with pytest.raises(ModelFolderError, match="is the model to begin with, and would be gone"):
        adapt(TRAINING, VALIDATION, tuned, model=str(tuned), keep_worse=True)
    assert "query_adapter" not in read_manifest(tuned)


def test_a_lost_or_changed_adapter_is_an_error(copied):
    path = copied / ADAPTER_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFolderError, match=str(copied)):
        TunedEmbeddings(str(copied))
    path.unlink()
    with pytest.raises(ModelFolderError, match=str(copied)):
        TunedEmbeddings(str(copied))


@pytest.fixture
def question_files(tmp_path):
    for name, data in (("train", TRAINING), ("val", VALIDATION)):
        save_dataset(data, tmp_path / f"{name}.json")
    return ["--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json")]


def run_adapt(tiny_base_folder, question_files, out, *options):
    cache = ["--cache", str(out.parent / "cache")]
    return CliRunner().invoke(
        main, ["adapt", "--model", str(tiny_base_folder), *question_files, "--out", str(out), *cache, *options]
    )


def test_nothing_is_written_if_the_model_answers_better_as_it_is_unless_told(
    tiny_base_folder, question_files, tmp_path, monkeypatch
):
    away = QueryAdapter(-np.eye(32, dtype=np.float32))
    monkeypatch.setattr(_Objective, "minimum", lambda self, strength, start: away.matrix)
    result = run_adapt(tiny_base_folder, question_files, tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "no model    the model as it is answers as well, or better" in result.output
    assert not (tmp_path / "out").exists()
    result = run_adapt(tiny_base_folder, question_files, tmp_path / "out", "--keep-worse")
    assert result.exit_code == 0, result.output
    assert "written all the same: the model as it is answers as well, or better" in result.output
    assert load_query_adapter(tmp_path / "out", read_manifest(tmp_path / "out")) is not None


def test_two_files_may_number_their_questions_alike(tiny_base_folder, tmp_path):
    again = replace(VALIDATION, queries=dict(zip(TRAINING.queries, VALIDATION.queries.values(), strict=False)))
    again = replace(again, relevant_docs=dict(zip(again.queries, VALIDATION.relevant_docs.values(), strict=True)))
    report = adapt(TRAINING, again, tmp_path / "out", model=str(tiny_base_folder))
    assert report.choice.judgment.queries == len(TRAINING) + len(VALIDATION)


def test_chunks_of_one_id_must_be_one_text(tiny_base_folder, tmp_path):
    other = replace(VALIDATION, corpus={**VALIDATION.corpus, next(iter(TRAINING.corpus)): "another text"})
    with pytest.raises(DatasetError, match="is another text than in"):
        adapt(TRAINING, other, tmp_path / "out", model=str(tiny_base_folder))


def test_too_few_answers_to_choose_by_are_refused(tiny_base_folder, tmp_path):
    few = TRAINING.subset(list(TRAINING.queries)[:3])
    with pytest.raises(TrainingError, match="3 questions about 3 answers to choose by"):
        adapt(few, None, tmp_path / "out", model=str(tiny_base_folder))

"""What `embtune export` writes, and what it decides on."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from tokenizers import Tokenizer

from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset, query_digest, save_dataset
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.evaluation import decision, verdict
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.evaluation.decision import TOO_FEW
from docsgpt_embtune.evaluation.metrics import mean_scores, score_queries
from docsgpt_embtune.evaluation.ranking import retrieve
from docsgpt_embtune.evaluation.verdict import HEADLINE_KS, judge
from docsgpt_embtune.exporting import export as export_module
from docsgpt_embtune.exporting import quality
from docsgpt_embtune.exporting.quality import GraphEmbeddings, decide_engine, surest_reading
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import fingerprint, verify
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.serving.graphs import Graph, graph_sha256, graphs_of
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.static_model import with_padded_tokens
from docsgpt_embtune.training.query_adapter.adapting import write_adapted_folder

from ..conftest import TEXTS

BEGINNING = " ".join(TEXTS)  # as long as the tiny model reads
ENDINGS = [f"{first} {second} " * 12 for first in "abcdefg" for second in "hijklm"]


@pytest.fixture
def copied(tiny_exported_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    return shutil.copytree(tiny_exported_folder, tmp_path / "copied")


@pytest.fixture
def framing_static_folder(tiny_tuned_folder, tmp_path):
    """A static model whose tokenizer puts [CLS] and [SEP] around a text, which sentence-transformers leaves out."""
    tokenizer = Tokenizer.from_file(str(tiny_tuned_folder / "tokenizer.json"))
    assert len(tokenizer.encode("x")) == 3
    tokenizer.no_truncation()
    rows = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 32)).astype(np.float32)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, rows), Normalize()], device="cpu")
    write_model_folder(model, tiny_tuned_folder, tmp_path / "static", {})
    return tmp_path / "static"


def export(folder, *options):
    return CliRunner().invoke(main, ["export", str(folder), *map(str, options)])


def questions_about(corpus, path, *, asked=42):
    ids = [f"c{number}" for number in range(len(corpus))]
    dataset = RetrievalDataset(
        queries=dict(zip(ids[:asked], ENDINGS, strict=False)),
        corpus=dict(zip(ids, corpus, strict=True)),
        relevant_docs={doc_id: (doc_id,) for doc_id in ids[:asked]},
    )
    save_dataset(dataset, path)
    return path


def test_folder_is_the_same_model_and_serves_without_the_plugin(tiny_exported_folder, tiny_tuned_folder):
    assert fingerprint(tiny_exported_folder) == fingerprint(tiny_tuned_folder)
    manifest = verify(tiny_exported_folder)
    assert TunedEmbeddings(str(tiny_exported_folder)).fingerprint == manifest["fingerprint"]
    stock = [StockEmbeddings(folder).embed_query(TEXTS[0]) for folder in (tiny_exported_folder, tiny_tuned_folder)]
    assert stock[0] == stock[1]
    graphs = tiny_exported_folder / "onnx"
    assert stat.S_IMODE(graphs.stat().st_mode) & 0o555 == 0o555
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in graphs.iterdir())


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", ("cls", "mean")])
def test_graph_has_the_vectors_of_any_pooling(pooling, tiny_base_folder, tmp_path):
    base = SentenceTransformer(str(tiny_base_folder), device="cpu")
    model = SentenceTransformer(modules=[base[0], Pooling(32, pooling), Normalize()], device="cpu")
    write_model_folder(model, tiny_base_folder, tmp_path / "tuned", {})
    export_module.export(tmp_path / "tuned")
    for engine, tolerance in (("onnx", 1e-5), ("onnx-int8", 0.1)):
        embeddings = TunedEmbeddings(str(tmp_path / "tuned"), engine=engine)
        assert np.allclose(embeddings.embed_documents(TEXTS), model.encode(list(TEXTS)), atol=tolerance)


def test_static_models_graph_reads_the_tokens_that_the_model_reads(framing_static_folder):
    export_module.export(framing_static_folder)
    texts = [*TEXTS, "x", " ".join(TEXTS) * 20, ""]
    stock = StockEmbeddings(framing_static_folder).embed_documents(texts)
    assert np.allclose(
        TunedEmbeddings(str(framing_static_folder), engine="onnx").embed_documents(texts), stock, atol=1e-5
    )


def test_static_model_has_no_graph_in_int8_which_would_be_no_quicker(framing_static_folder, tmp_path):
    result = export(framing_static_folder, "--data", questions_about(ENDINGS, tmp_path / "val.json"))
    assert [path.name for path in (framing_static_folder / "onnx").iterdir() if path.suffix == ".onnx"] == [
        "model.onnx"
    ]
    assert "nothing: a static model reads every text whole, and int8 would make it no quicker" in result.output
    assert read_manifest(framing_static_folder)["serving"]["engine"] == "onnx"


def test_static_models_graph_of_other_tokens_is_never_written(framing_static_folder, monkeypatch):
    monkeypatch.setattr("docsgpt_embtune.tokenizer.is_static_folder", lambda folder: False)
    with pytest.raises(ModelFolderError, match="the graph's vectors differ from the model's by"):
        export_module.export(framing_static_folder)


def test_static_model_with_padded_tokens_has_the_same_vectors(framing_static_folder):
    model = SentenceTransformer(str(framing_static_folder), device="cpu")
    assert np.allclose(with_padded_tokens(model).encode(list(TEXTS)), model.encode(list(TEXTS)), atol=1e-6)


def test_graph_with_other_vectors_is_never_written(tiny_tuned_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    monkeypatch.setattr(export_module, "TOLERANCE", 0.0)  # fp32 summed in another order differs somewhere
    with pytest.raises(ModelFolderError, match="the graph's vectors differ from the model's by"):
        export_module.export(folder)
    assert not (folder / "onnx").exists()
    assert "serving" not in read_manifest(folder)


def test_an_export_that_is_stopped_while_it_measures_leaves_the_folder_as_it_was(copied):
    def contents():
        return {path.relative_to(copied): path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    def stop(line):
        if line.startswith("measuring"):
            raise KeyboardInterrupt

    before = contents()
    asked = RetrievalDataset({"q": TEXTS[0]}, {"c": TEXTS[0]}, {"q": ("c",)})
    with pytest.raises(KeyboardInterrupt):
        export_module.export(copied, asked, max_seq_length=8, say=stop)
    assert contents() == before


def test_nothing_is_kept_to_be_sent_anywhere(tiny_tuned_folder, tmp_path):
    folder = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    code = "import sys; from docsgpt_embtune import export; export(sys.argv[1])"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder)], env=environment, check=True)
    assert not [path for place in ("cache", "home") for path in (tmp_path / place).rglob("*") if path.is_file()]


def test_questions_that_decided_are_not_unseen_afterwards_and_learned_ones_stay_learned(copied):
    decides, learned, chose, was_learned = map(query_digest, TEXTS[:4])
    data = {"seen_queries": [learned, chose, was_learned], "chosen_by": [chose]}
    (copied / "embtune.json").write_text(json.dumps({**read_manifest(copied), "data": data}))
    asked = RetrievalDataset(
        {name: text for name, text in zip("dl", TEXTS, strict=False)}, {"c": TEXTS[0]}, {"d": ("c",), "l": ("c",)}
    )
    export_module.export(copied, asked)
    data = read_manifest(copied)["data"]
    assert set(data["seen_queries"]) == {decides, learned, chose, was_learned}
    assert set(data["chosen_by"]) == {decides, chose}


def test_attention_is_one_operator_a_layer_and_int8_takes_one_text_a_run(tiny_exported_folder):
    exact, int8 = (onnx.load(tiny_exported_folder / "onnx" / f"{name}.onnx").graph for name in ("model", "model_int8"))
    layers = json.loads((tiny_exported_folder / "config.json").read_text())["num_hidden_layers"]
    attention = [node for node in exact.node if node.op_type == "Attention"]
    assert len(attention) == layers
    assert all(node.input[3] for node in attention)  # several texts a run: padding has to be hidden
    quantised = [node for node in int8.node if node.op_type == "QAttention"]
    assert len(quantised) == layers
    assert not any("mask" in name for node in quantised for name in node.input)
    assert {value.type.tensor_type.shape.dim[0].dim_value for value in int8.input} == {1}


def test_graph_is_written_as_traced_where_fusing_makes_another_model_of_it(copied, monkeypatch):
    def wrongly_fused(path, architecture):
        graph = onnx.load(path)
        bias = next(value for value in graph.graph.initializer if value.name.endswith("dense.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return graph

    monkeypatch.setattr(export_module, "fused", wrongly_fused)
    export_module.export(copied)
    stock = StockEmbeddings(copied).embed_documents(TEXTS)
    assert np.allclose(TunedEmbeddings(str(copied)).embed_documents(TEXTS), stock, atol=1e-5)
    assert sorted(path.name for path in (copied / "onnx").glob("*.onnx")) == ["model.onnx", "model_int8.onnx"]


def test_windows_are_chosen_where_the_answer_stands_at_the_end(copied, tmp_path):
    questions = questions_about([f"{BEGINNING} {ending}" for ending in ENDINGS], tmp_path / "val.json")
    result = export(copied, "--data", questions)
    assert result.exit_code == 0, result.output
    serving = read_manifest(copied)["serving"]
    assert serving["reading"] == {"max_seq_length": 64, "windows": "mean"}
    usual, windows = serving["decisions"][0]["trials"]
    assert windows["ndcg@10"] > usual["ndcg@10"] + 0.1
    assert "windows over the whole chunk, 64 tokens (finds more, beyond chance)" in result.output
    embeddings = TunedEmbeddings(str(copied))
    assert embeddings.reading == Reading(64, "mean")
    assert embeddings.fingerprint != fingerprint(copied)


def test_best_of_several_ways_to_read_is_held_against_luck(monkeypatch):
    """Three ways that gain nothing: each by itself is taken for a gain in a twentieth of the cases, at most."""
    monkeypatch.setattr(verdict, "RESAMPLES", 299)
    ids = [str(number) for number in range(40)]
    groups = [[name] for name in ids]
    rng = np.random.default_rng(0)

    def drawn(gain=0.0):
        return {metric: dict(zip(ids, gain + rng.normal(size=40), strict=True)) for metric in ("recall@1", "ndcg@10")}

    def one_gains(usual, others):
        judgments = {reading: judge(usual, scores, groups=groups) for reading, scores in others.items()}
        chosen, reason = surest_reading(usual, others, judgments, groups)
        assert (chosen is not None) == (reason == "finds more, beyond chance")
        return any(judgment.verdict == "improved" for judgment in judgments.values()), chosen

    readings = [Reading(64, "mean"), Reading(128, "off"), Reading(128, "mean")]
    told = [one_gains(drawn(), {reading: drawn() for reading in readings}) for _ in range(300)]
    assert sum(improved for improved, _ in told) > 20
    assert sum(chosen is not None for _, chosen in told) <= 15
    _, chosen = one_gains(drawn(), dict(zip(readings, (drawn(), drawn(1.5), drawn()), strict=True)))
    assert chosen == readings[1]


def test_short_chunks_are_read_as_ever(copied, tmp_path):
    result = export(copied, "--data", questions_about(ENDINGS, tmp_path / "val.json"))
    assert "(no chunk that answers is longer)" in result.output
    assert read_manifest(copied)["serving"]["reading"] == {"max_seq_length": 64, "windows": "off"}


def test_windows_and_length_as_told(copied):
    result = export(copied, "--windows", "mean", "--max-seq-length", 32)
    assert "give validation questions with --data to decide about int8\n" in result.output
    assert "not the chunk's beginning, 64 tokens, as before: stored chunks have to be embedded again" in result.output
    embeddings = TunedEmbeddings(str(copied))
    assert embeddings.reading == Reading(32, "mean")
    assert np.linalg.norm(embeddings.embed_documents([BEGINNING])) == pytest.approx(1.0)
    result = export(copied, "--max-seq-length", 65)
    assert result.exit_code == 2
    assert "cannot read 65 tokens at a time, its position embeddings allow 8 to 64" in result.stderr


def test_chunks_go_on_being_read_as_they_are_stored(copied):
    assert export(copied, "--windows", "mean", "--max-seq-length", 32).exit_code == 0
    assert "embedded again" not in export(copied).output
    assert TunedEmbeddings(str(copied)).reading == Reading(32, "mean")
    assert export(copied, "--windows", "off").exit_code == 0
    assert TunedEmbeddings(str(copied)).reading == Reading(32, "off")


def test_too_few_questions_are_helped_out_by_the_chunks_own_words(copied, tmp_path):
    chunks = [f"{first} {second} {third} " * 12 for first in "abcde" for second in "fghij" for third in "klmno"]
    questions = questions_about(chunks, tmp_path / "three.json", asked=3)
    assert export(copied, "--data", questions).exit_code == 0
    _, decided = read_manifest(copied)["serving"]["decisions"]
    assert decided["queries"] == 3
    assert decided["reason"].endswith("asked for by their own words, as the questions are too few to tell")
    kinds = [trial["name"].partition(", ") for trial in decided["trials"]]
    assert [engine for engine, _, _ in kinds] == ["onnx", "onnx-int8"] * 2
    assert [by for _, _, by in kinds] == ["", "", *["125 chunks by words of theirs"] * 2]


def test_questions_that_the_model_has_by_heart_do_not_decide_alone(copied, tmp_path, monkeypatch):
    for module in (decision, quality):
        monkeypatch.setattr(module, "FEWEST_TO_RULE_OUT", 10)
    questions = questions_about(ENDINGS, tmp_path / "many.json")
    seen = [query_digest(text) for text in load_dataset(questions).queries.values()]
    asked = []
    for chosen_by in (seen, seen[1:], []):
        data = {"seen_queries": seen, "chosen_by": chosen_by}
        manifest = {**read_manifest(copied), "data": data}
        (copied / "embtune.json").write_text(json.dumps(manifest))
        assert export(copied, "--data", questions).exit_code == 0
        _, decided = read_manifest(copied)["serving"]["decisions"]
        by_words = decided["reason"].endswith("as the model learned from the questions")
        asked.append((decided["queries"], len(decided["trials"]), by_words))
    assert asked == [(42, 2, False), (41, 2, False), (42, 4, True)]


def test_few_chunks_prove_no_more_than_few_questions(copied, tmp_path):
    assert export(copied, "--data", questions_about(ENDINGS, tmp_path / "questions.json")).exit_code == 0
    _, decided = read_manifest(copied)["serving"]["decisions"]
    assert decided["chosen"] == "onnx"
    assert decided["reason"] == "int8: too few questions to rule out that it loses a point"


def test_loss_that_questions_show_is_not_asked_about_again(copied, tmp_path):
    graphs = graphs_of(copied, read_manifest(copied))
    blind = onnx.load(graphs["onnx"].path)
    for weights in blind.graph.initializer:  # every text is the same to it
        weights.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(weights), weights.name))
    onnx.save(blind, tmp_path / "blind.onnx")
    rounded = Graph("onnx-int8", tmp_path / "blind.onnx", graph_sha256(tmp_path / "blind.onnx"))
    asked = load_dataset(questions_about(ENDINGS, tmp_path / "questions.json"))
    engine, decision = decide_engine(copied, graphs["onnx"], rounded, Reading(64), asked, tmp_path)
    assert (engine, decision.reason, len(decision.trials)) == ("onnx", "int8: it loses", 2)


@pytest.mark.parametrize(
    ("asked", "learned_from", "decided"),
    [
        (40, False, ("onnx", f"int8: {TOO_FEW}")),
        (120, True, ("onnx", f"int8: {TOO_FEW}")),
        (120, False, ("onnx-int8", "int8: it loses nothing that matters")),
    ],
)
def test_small_loss_that_questions_show_is_accepted_by_enough_of_them_alone(
    copied, tmp_path, monkeypatch, asked, learned_from, decided
):
    """Four questions find their chunks a little later in int8."""
    ids = [str(number) for number in range(asked)]
    questions = RetrievalDataset({name: f"{name}?" for name in ids}, dict.fromkeys(ids, "!"), {i: (i,) for i in ids})
    exact = {metric: dict.fromkeys(ids, 0.5) for metric in ("recall@1", "recall@10", "ndcg@10")}
    rounded = {**exact, "ndcg@10": {name: 0.47 if int(name) < 4 else 0.5 for name in ids}}
    assert judge(exact, rounded).differences["ndcg@10"].high < 0
    scores = {"onnx": exact, "onnx-int8": rounded}
    monkeypatch.setattr(quality, "graph_scores", lambda _, graph, *__, **___: scores[graph.engine])
    graphs = graphs_of(copied, read_manifest(copied)).values()
    engine, decision = decide_engine(copied, *graphs, Reading(64), questions, tmp_path, learned_from=learned_from)
    assert (engine, decision.reason, len(decision.trials)) == (*decided, 2)


def test_chunks_are_asked_for_by_words_that_are_read(copied):
    chunks = {"short": "a few words of a short text", "long": "a " * 70 + "b " * 700, "empty": ""}
    asked = asked_by_their_words(copied, Reading(64, "off"), chunks)
    assert list(asked.queries) == ["words of short", "words of long"]
    assert "b" not in asked.queries["words of long"]
    assert "b" in asked_by_their_words(copied, Reading(64, "mean"), chunks).queries["words of long"]


def test_by_meaning_is_by_the_model_alone(copied):
    def products(embeddings):
        questions = np.array([embeddings.embed_query(text) for text in TEXTS])
        return questions @ np.array(embeddings.embed_documents(TEXTS)).T

    graph = graphs_of(copied, read_manifest(copied))["onnx"]
    alone = products(GraphEmbeddings(copied, graph, Reading(64)))
    replace(Keywords.of(TEXTS, 32), weight=0.4).write(copied)
    assert products(GraphEmbeddings(copied, graph, Reading(64), by_meaning=True)) == pytest.approx(
        0.6 * alone, abs=1e-5
    )
    assert np.abs(products(GraphEmbeddings(copied, graph, Reading(64))) - 0.6 * alone).max() > 0.1


def test_questions_are_measured_through_the_query_adapter_that_serves(copied, tmp_path):
    base, adapted = load_deployed_model(str(copied)), tmp_path / "adapted"
    turned = QueryAdapter(np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0].astype(np.float32))
    write_adapted_folder(base, adapted, turned, {}, (TEXTS, base.embed(TEXTS)), learned=())
    questions = questions_about(ENDINGS, tmp_path / "val.json")
    assert export(adapted, "--data", questions).exit_code == 0
    (about_engine,) = read_manifest(adapted)["serving"]["decisions"]
    asked = load_dataset(questions)
    for measured in about_engine["trials"]:
        served = retrieve(TunedEmbeddings(str(adapted), engine=measured["name"]), asked)
        scores = mean_scores(score_queries(served, asked.qrels, HEADLINE_KS))
        assert {metric: measured[metric] for metric in scores} == pytest.approx(scores)
        assert scores["ndcg@10"] < 0.9  # the model alone finds each chunk by its own text


def test_folder_that_is_no_tuned_model_is_refused(tiny_base_folder, tmp_path):
    result = export(tiny_base_folder)
    assert result.exit_code == 2
    assert "not a tuned model" in result.stderr
    (tmp_path / "embtune.json").write_text(json.dumps({"schema": 1, "fingerprint": "0"}))
    assert export(tmp_path).exit_code == 2


def test_unknown_way_to_read_is_refused_and_not_written(copied):
    before = read_manifest(copied)
    with pytest.raises(ValueError, match="windows must be off, mean or None; got 'maen'"):
        export_module.export(copied, windows="maen")
    with pytest.raises(TypeError, match="validation must be a RetrievalDataset"):
        export_module.export(copied, "questions.json")
    assert read_manifest(copied) == before
    assert "model.onnx" in str(export_module.export(copied))


def test_chunks_are_embedded_once_for_both_decisions(copied, tmp_path, monkeypatch):
    embedded: Counter[tuple[str, str, str]] = Counter()

    class Counted(GraphEmbeddings):
        def __init__(self, folder, graph, reading, **options):
            super().__init__(folder, graph, reading, **options)
            self.served = graph.engine, str(reading)

        def embed_documents(self, texts):
            embedded.update((*self.served, text) for text in texts)
            return super().embed_documents(texts)

    monkeypatch.setattr(quality, "GraphEmbeddings", Counted)
    assert export(copied, "--data", questions_about(ENDINGS, tmp_path / "questions.json")).exit_code == 0
    assert {engine for engine, _, _ in embedded} == {"onnx", "onnx-int8"}
    assert max(embedded.values()) == 1

"""A static model: taught where the tuned model puts texts, in a folder that is served like any other."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import query_digest, save_dataset
from docsgpt_embtune.data.split import hold_out
from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.truncation import audit_truncation
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.seen_questions import data_record
from docsgpt_embtune.training.smaller.distillation import distill
from docsgpt_embtune.training.smaller.token_regression import Tokens, means, taught_tables
from docsgpt_embtune.training.trainer import load_base

from ...conftest import TEXTS
from ...sample_questions import TRAINING, VALIDATION, dataset

LONG = " ".join(TEXTS) * 3  # five times what the tiny model reads


@pytest.fixture(scope="module")
def static(tiny_tuned_folder, tiny_base_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("static") / "model"
    return distill(tiny_tuned_folder, TRAINING, VALIDATION, out, baseline=str(tiny_base_folder), keep_worse=True)


def test_regression_finds_the_table_that_made_the_vectors(tiny_tuned_folder):
    tokens = Tokens(tiny_tuned_folder)
    truth = np.random.default_rng(0).standard_normal((len(tokens), 8))
    shares = tokens.shares(TEXTS)
    begun = truth + 0.5 * np.random.default_rng(1).standard_normal(truth.shape)
    vectors = (shares @ truth).astype(np.float32)
    distances = [
        np.abs(shares @ table - vectors).max()
        for _, table in taught_tables(begun, np.ones(len(tokens)), shares, vectors)
    ]
    assert distances == sorted(distances, reverse=True)  # the less it is held, the nearer
    assert distances[-1] < 0.02 * np.abs(shares @ begun - vectors).max()


def test_shares_are_of_the_texts_own_tokens(tiny_tuned_folder):
    tokens = Tokens(tiny_tuned_folder)
    shares = tokens.shares(["logs logs kept", "", LONG]).toarray()
    vocabulary = tokens.tokenizer.get_vocab()
    assert shares[0, vocabulary["logs"]] == pytest.approx(2 / 3)
    assert shares[0].sum() == pytest.approx(1) == shares[2].sum()
    assert not shares[1].any()
    assert not shares[:, vocabulary["[CLS]"]].any()
    assert means(tokens.shares([""]), np.ones((len(tokens), 2))).tolist() == [[0, 0]]


def test_token_goes_through_the_model_framed_as_a_text(tiny_tuned_folder):
    tokens = Tokens(tiny_tuned_folder)
    model = load_base(BaseModel("tiny", tiny_tuned_folder), "cpu")
    vectors = tokens.embed(model)
    ids = [tokens.tokenizer.get_vocab()[word] for word in ("logs", "backup")]
    difference = model.encode(["logs"])[0] - model.encode(["backup"])[0]
    assert vectors[ids[0]] - vectors[ids[1]] == pytest.approx(difference, abs=1e-5)


def test_what_validation_prefers_is_written_and_its_figures_are_those_of_the_folder(static):
    record = read_manifest(static.folder)["distilled"]
    untuned, tuned, *candidates = record["trials"]
    assert [untuned["name"].endswith(", untuned"), tuned["name"]] == [True, "tuned"]
    assert record["chosen"] in [trial["name"] for trial in candidates]
    assert record["needs"].startswith("sentence-transformers 3.2")
    served = TunedEmbeddings(str(static.folder))
    questions = np.array([served.embed_query(text) for text in VALIDATION.queries.values()])
    chunks = np.array(served.embed_documents(list(VALIDATION.corpus.values())))
    first = (questions @ chunks.T).argmax(axis=1)
    good = [list(VALIDATION.corpus).index(doc_ids[0]) for doc_ids in VALIDATION.relevant_docs.values()]
    assert np.mean(first == good) == pytest.approx(candidates[-1]["recall@1"])
    assert record["against_tuned"]["difference"]["mean"] == pytest.approx(candidates[-1]["ndcg@10"] - tuned["ndcg@10"])


def test_folder_loads_in_sentence_transformers_and_reads_to_the_end(static):
    stock = StockEmbeddings(static.folder)
    ends = [f"{LONG} {end}" for end in (TEXTS[0], TEXTS[4])]
    vectors = np.array(stock.embed_documents(ends))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    modules = json.loads((static.folder / "modules.json").read_text())
    assert modules[0]["path"] == "0_StaticEmbedding"  # at the root, older ones would take it for a transformer
    assert audit_truncation(stock.model, TRAINING).share_seen == 1.0
    serving = load_deployed_model(str(static.folder))
    assert serving.cuts_off(ends) is None
    assert np.allclose(serving.embed_many(ends), vectors, atol=1e-2)  # as `embtune reembed` does


def test_exported_it_serves_without_torch_and_alike(static, tmp_path, monkeypatch):
    monkeypatch.setattr(TunedEmbeddings, "_models", {})
    folder = shutil.copytree(static.folder, tmp_path / "exported")
    export(folder)
    texts = [*TEXTS, LONG, "x", "ünïcödé 数据 🙂"]
    onnx, torch = (TunedEmbeddings(str(folder), engine=engine) for engine in ("onnx", "torch"))
    assert np.allclose(onnx.embed_documents(texts), torch.embed_documents(texts), atol=1e-5)
    assert fingerprint(folder) == read_manifest(static.folder)["fingerprint"]


def test_it_cannot_be_told_to_read_less(static):
    with pytest.raises(ModelFolderError, match="reads every text whole and not 128 tokens at a time; leave out"):
        export(static.folder, max_seq_length=128)
    assert not (static.folder / "onnx").exists()


def test_table_and_its_tokenizer_belong_to_the_fingerprint(static, tmp_path):
    folder = shutil.copytree(static.folder, tmp_path / "changed")
    own = folder / "0_StaticEmbedding" / "tokenizer.json"
    own.write_text(own.read_text() + " ")
    with pytest.raises(ModelFolderError, match=r"not the model that its embtune.json describes"):
        TunedEmbeddings(str(folder))


@pytest.fixture
def tuned_with(tiny_tuned_folder, tmp_path):
    """A tuned folder that says of its data what `embtune train` does; without validation it was chosen in folds."""

    def tuned(training, validation):
        folder = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned with")
        write_manifest(folder, {**read_manifest(folder), "data": data_record(training, validation)})
        return folder

    return tuned


@pytest.fixture
def distilled(tiny_base_folder, tmp_path):
    def run(folder, training, validation, layers=None):
        said = []
        options = {"baseline": str(tiny_base_folder), "keep_worse": True, "say": said.append, "layers": layers}
        return distill(folder, training, validation, tmp_path / "out", **options), said

    return run


def digests(questions):
    return sorted(map(query_digest, questions.queries.values()))


def test_questions_that_the_tuned_model_learned_from_do_not_choose(tuned_with, distilled):
    in_folds = tuned_with(TRAINING, None)
    for validation in (None, TRAINING):
        with pytest.raises(
            TrainingError, match="learned from 40 of 40 questions, which leaves 0 answers to choose by: "
        ):
            distilled(in_folds, TRAINING, validation)
    report, said = distilled(in_folds, TRAINING, dataset())
    assert report.decision.queries == 20
    assert report.manifest["data"]["chosen_by"] == digests(VALIDATION)
    assert report.manifest["data"]["training"]["queries"] == 40  # the table may learn what the tuned model did
    assert "left out of validation: 40 questions that the tuned model learned from" in said


def test_with_layers_chunks_are_asked_for_by_their_own_words_where_all_questions_were_learned(tuned_with, distilled):
    in_folds = tuned_with(TRAINING, None)
    for validation in (None, TRAINING):
        report, said = distilled(in_folds, TRAINING, validation, layers=1)
        assert "instead     40 chunks asked for by their own words, by meaning alone" in said
        assert report.decision.queries == 40
        assert report.decision.reason.endswith("by their own words, as the model learned from the questions")
        assert report.manifest["data"]["chosen_by"] == []
        assert set(report.manifest["data"]["seen_queries"]) == set(digests(TRAINING))


def test_questions_that_chose_the_tuned_model_choose_again(tuned_with, distilled):
    report, said = distilled(tuned_with(TRAINING, VALIDATION), TRAINING, VALIDATION)
    assert report.manifest["data"]["chosen_by"] == digests(VALIDATION)
    assert not [line for line in said if line.startswith("left out")]


def test_without_validation_what_the_tuned_model_had_held_out_is_held_out_again(tuned_with, distilled):
    learned, held_out = hold_out(dataset(), 0.2, seed=1)
    report, said = distilled(tuned_with(learned, held_out), dataset(), None)
    assert report.manifest["data"]["chosen_by"] == digests(held_out)
    assert report.manifest["data"]["training"]["queries"] == 48
    assert "no --val given: 12 of the other questions are held out to choose by" in said


def test_no_more_is_held_out_than_usual_and_nothing_about_an_answer_that_was_learned_of(tuned_with, distilled):
    learned, unlearned = hold_out(dataset(), 0.8, seed=1)
    again = {f"{query_id} again": f"{text} again" for query_id, text in learned.queries.items()}
    answers = {f"{query_id} again": good for query_id, good in learned.relevant_docs.items()}
    every = replace(dataset(), queries=dataset().queries | again, relevant_docs=dataset().relevant_docs | answers)
    report, _ = distilled(tuned_with(learned, None), every, None)
    chosen_by = report.manifest["data"]["chosen_by"]
    assert len(chosen_by) == round(0.4 * (60 + 12))
    assert set(chosen_by) < set(digests(unlearned))


def test_questions_that_it_saw_are_told(static):
    seen = set(read_manifest(static.folder)["data"]["seen_queries"])
    assert seen == {query_digest(text) for each in (TRAINING, VALIDATION) for text in each.queries.values()}


def test_command_line(tiny_tuned_folder, tiny_base_folder, tmp_path):
    save_dataset(TRAINING, tmp_path / "train.json")
    save_dataset(VALIDATION, tmp_path / "val.json")
    arguments = ["--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--keep-worse"]
    result = CliRunner().invoke(
        main,
        [
            "distill",
            str(tiny_tuned_folder),
            *arguments,
            "--baseline",
            str(tiny_base_folder),
            "--out",
            str(tmp_path / "out"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "against the tuned model: ndcg@10 " in result.stdout
    assert "needs sentence-transformers 3.2 or later: DocsGPT 0.13 or later" in result.stdout


def test_folder_with_a_query_adapter_is_refused(tiny_tuned_folder, tmp_path):
    adapted = shutil.copytree(tiny_tuned_folder, tmp_path / "adapted")
    write_manifest(adapted, {**read_manifest(adapted), "query_adapter": {}})
    with pytest.raises(ModelFolderError, match="has a query adapter; distill the model that it was made for"):
        distill(adapted, TRAINING, VALIDATION, tmp_path / "out")


def test_static_model_is_refused(static, tmp_path):
    with pytest.raises(ModelFolderError, match="is a static model already; distill the model that it was made of"):
        distill(static.folder, TRAINING, VALIDATION, tmp_path / "out")


def test_model_with_a_default_prompt_is_refused_before_any_work(tiny_tuned_folder, tmp_path):
    prompted = shutil.copytree(tiny_tuned_folder, tmp_path / "prompted")
    (prompted / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"both": "logs: "}, "default_prompt_name": "both"})
    )
    write_manifest(prompted, {**read_manifest(prompted), "fingerprint": fingerprint(prompted)})
    said = []
    with pytest.raises(ModelFolderError, match="puts 'logs: ' before every text, which a static model cannot do"):
        distill(prompted, TRAINING, VALIDATION, tmp_path / "out", say=said.append)
    assert said == []

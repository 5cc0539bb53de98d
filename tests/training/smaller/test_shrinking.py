"""Fewer numbers of a vector: as the validation questions allow, in a folder that loads like any other."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
from docsgpt_embtune.data.split import hold_out
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.evaluation.metrics import mean_scores
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_folder import verify
from docsgpt_embtune.seen_questions import data_record, digests_of, without_learned
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.training.smaller import shrinking
from docsgpt_embtune.training.smaller.shrinking import Cut, principal_directions, shrink

from ...sample_questions import dataset

HARD = dataset()
CHUNKS = list(HARD.corpus.values())
# Every question is its chunk's own text, so that it is found at any width; enough of them that this proves something.
TEXTS = HARD.corpus | {f"{doc_id} twice": f"{text} and {text}" for doc_id, text in HARD.corpus.items()}
EASY = RetrievalDataset(TEXTS, TEXTS, {doc_id: (doc_id,) for doc_id in TEXTS})


def trained_at(folder, tmp_path, widths):
    trained = shutil.copytree(folder, tmp_path / "trained")
    write_manifest(trained, {**read_manifest(trained), "training": {"widths": widths}})
    return trained


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_written_folder_gives_the_vectors_that_were_measured(tiny_tuned_folder, tmp_path):
    report = shrink(trained_at(tiny_tuned_folder, tmp_path, [8]), HARD, tmp_path / "cut", width=8)
    whole = np.array(TunedEmbeddings(str(tiny_tuned_folder)).embed_documents(CHUNKS))
    cut = np.array(TunedEmbeddings(str(report.folder)).embed_documents(CHUNKS))
    assert cut.shape == (60, 8)
    _, _, directions = np.linalg.svd(whole)
    expected = {"first numbers": unit(whole[:, :8]), "principal directions": unit(whole @ directions[:8].T)}
    chosen = expected[report.manifest["shrunk"]["chosen"].removeprefix("8 wide, ")]
    assert np.allclose(cut @ cut.T, chosen @ chosen.T, atol=1e-5)  # a direction may come out turned round


def test_table_holds_both_cuts_of_each_width_with_intervals(tiny_tuned_folder, tmp_path):
    record = shrink(tiny_tuned_folder, HARD, tmp_path / "cut", width=30).manifest["shrunk"]
    whole, *cuts = record["trials"]
    assert whole["name"] == "32 wide"
    assert [trial["name"] for trial in cuts[:3]] == [
        "30 wide, first numbers",
        "30 wide, principal directions",
        "24 wide, first numbers",
    ]
    for trial in cuts:
        for metric in ("recall@1", "recall@10", "ndcg@10"):
            difference = trial["difference"][metric]
            assert difference["mean"] == pytest.approx(trial[metric] - whole[metric])
            assert difference["low"] <= difference["mean"] <= difference["high"]
    of_the_width = {trial["name"]: trial["ndcg@10"] for trial in cuts[:2]}
    assert of_the_width[record["chosen"]] == max(of_the_width.values())


def test_without_a_width_the_narrowest_that_loses_nothing_is_taken(tiny_tuned_folder, tmp_path):
    report = shrink(tiny_tuned_folder, EASY, tmp_path / "cut")
    assert report.manifest["dimension"] == 5  # a sixth, the narrowest that is tried
    assert report.decision.reason == "it loses nothing that matters"


def test_directions_are_measured_on_chunks_that_they_were_not_taken_from():
    # Chunks at right angles to each other, and as many directions: theirs keep all of them, those of the others little.
    # A question is a little nearer to its own chunk than to the next.
    rng = np.random.default_rng(0)
    chunks = np.linalg.qr(rng.standard_normal((32, 32)))[0][:12].astype("f4")
    questions = unit(chunks + 0.8 * np.roll(chunks, 1, axis=0))
    names = {f"c{number}": f"c{number}" for number in range(12)}
    asked = RetrievalDataset(names, names, {name: (name,) for name in names})
    cut = Cut("principal directions", principal_directions(chunks)[:12], beside=0)
    measure = shrinking._Measure.in_folds(asked, questions, chunks, 32)
    assert np.allclose(cut.map(chunks) @ cut.map(chunks).T, np.eye(12), atol=1e-5)  # as if nothing were lost
    assert mean_scores(measure.whole())["recall@1"] == 1
    assert mean_scores(measure.score(cut))["recall@1"] < 1


def test_questions_that_chose_the_width_are_not_unseen_afterwards(tiny_tuned_folder, tmp_path):
    learned = having_learned(tiny_tuned_folder, tmp_path, HARD.subset(list(HARD.queries)[:20]))
    data = shrink(learned, HARD, tmp_path / "cut", width=8).manifest["data"]
    assert set(data["seen_queries"]) == digests_of(HARD)
    assert set(data["chosen_by"]) == digests_of(HARD.subset(list(HARD.queries)[20:]))


def test_questions_that_only_chose_what_a_model_is_made_of_may_choose_again(tiny_tuned_folder, tmp_path):
    chose, learned_now = HARD.subset(list(HARD.queries)[:20]), HARD.subset(list(HARD.queries)[20:30])
    shrunk = shrink(tiny_tuned_folder, chose, tmp_path / "cut", width=8).manifest
    again = data_record(learned_now, None, shrunk)
    assert len(without_learned(chose, {"data": again})) == 20
    assert len(without_learned(chose, {"data": data_record(chose, None, shrunk)})) == 0


def test_too_few_questions_prove_nothing_though_each_is_found(tiny_tuned_folder, tmp_path):
    one = EASY.subset(list(EASY.queries)[:1])
    assert shrink(tiny_tuned_folder, one, tmp_path / "cut").folder is None


def having_learned(folder, tmp_path, questions):
    learned = shutil.copytree(folder, tmp_path / "learned")
    write_manifest(learned, {**read_manifest(learned), "data": data_record(questions, None)})
    return learned


def test_questions_that_the_model_learned_from_do_not_count(tiny_tuned_folder, tmp_path):
    by_heart, others = hold_out(HARD, 0.4, seed=0)
    said = []
    learned = having_learned(tiny_tuned_folder, tmp_path, by_heart)
    report = shrink(learned, HARD, tmp_path / "cut", width=8, say=said.append)
    alone = shrink(tiny_tuned_folder, others, tmp_path / "alone", width=8)
    assert report.decision == alone.decision
    assert report.decision.queries == 24
    assert "left out    36 questions that the model learned from" in said


def test_where_the_model_learned_from_nearly_all_questions_chunks_are_asked_for_by_their_words(
    tiny_tuned_folder, tmp_path
):
    by_heart = HARD.subset(list(HARD.queries)[4:])
    said = []
    learned = having_learned(tiny_tuned_folder, tmp_path, by_heart)
    report = shrink(learned, HARD, tmp_path / "cut", width=8, say=said.append)
    of_chunks = asked_by_their_words(tiny_tuned_folder, Reading(64), HARD.corpus)
    assert report.decision.trials == shrink(tiny_tuned_folder, of_chunks, tmp_path / "alone", width=8).decision.trials
    assert report.decision.queries == 60
    assert report.decision.reason.endswith(
        " where 60 chunks are asked for by their own words, as the model learned from the questions"
    )
    assert said[-3:-1] == [
        "left out    56 questions that the model learned from",
        "instead     60 chunks asked for by their own words, by meaning alone",
    ]


def test_neither_questions_nor_chunks_enough_are_refused(tiny_tuned_folder, tmp_path):
    few = replace(HARD.subset(list(HARD.queries)[:4]), corpus=dict(list(HARD.corpus.items())[:4]))
    with pytest.raises(
        TrainingError, match=r"learned from 4 of 4 questions, and too few of the chunks can be .*; give --data with"
    ):
        shrink(having_learned(tiny_tuned_folder, tmp_path, few), few, tmp_path / "cut", width=8)


def test_widths_of_the_training_are_those_that_are_tried(tiny_tuned_folder, tmp_path):
    report = shrink(trained_at(tiny_tuned_folder, tmp_path, [32, 20, 10]), EASY, tmp_path / "cut")
    assert [trial.name.partition(",")[0] for trial in report.decision.trials] == [
        "32 wide",
        *["20 wide"] * 2,
        *["10 wide"] * 2,
    ]


def test_command_says_no_where_every_width_may_lose(tiny_tuned_folder, tmp_path):
    save_dataset(HARD, tmp_path / "val.json")
    trained = trained_at(tiny_tuned_folder, tmp_path, [3])
    arguments = ["shrink", str(trained), "--data", str(tmp_path / "val.json"), "--cache", str(tmp_path / "c")]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "cut")])
    assert result.exit_code == 1, result.output
    assert "60 validation questions: 32 wide (no width is known to lose nothing that matters)" in result.stdout
    assert not (tmp_path / "cut").exists()
    assert CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "cut"), "--width", "3"]).exit_code == 0
    assert read_manifest(tmp_path / "cut")["dimension"] == 3


def test_layer_is_written_as_the_oldest_host_reads_it_and_belongs_to_the_fingerprint(tiny_tuned_folder, tmp_path):
    folder = shrink(tiny_tuned_folder, EASY, tmp_path / "cut", width=8).folder
    assert json.loads((folder / "2_Dense" / "config.json").read_text()) == {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    types = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert types == ["Transformer", "Pooling", "Dense", "Normalize"]
    weights = folder / "2_Dense" / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ModelFolderError, match=r"not the model that its embtune.json describes"):
        verify(folder)


def test_way_of_reading_is_kept_and_the_graph_holds_the_cut(tiny_tuned_folder, tmp_path):
    windowed = shutil.copytree(tiny_tuned_folder, tmp_path / "windowed")
    serving = {"reading": {"max_seq_length": 32, "windows": "mean"}, "engine": "onnx", "graphs": {}}
    write_manifest(windowed, {**read_manifest(windowed), "serving": serving})
    folder = shrink(windowed, EASY, tmp_path / "cut", width=8).folder
    assert TunedEmbeddings(str(folder)).reading.windows == "mean"
    torch = TunedEmbeddings(str(folder), engine="torch").embed_documents(CHUNKS)
    export(folder)
    onnx = TunedEmbeddings(str(folder), engine="onnx")
    assert onnx.reading == Reading(32, "mean")
    assert onnx.dimension == 8
    assert np.allclose(onnx.embed_documents(CHUNKS), torch, atol=1e-5)


@pytest.mark.parametrize("width", [0, 32])
def test_width_that_cuts_nothing_or_all_is_refused(tiny_tuned_folder, tmp_path, width):
    with pytest.raises(ModelFolderError, match=f"is 32 wide and cannot be cut to {width}; set --width to 1 up to 31"):
        shrink(tiny_tuned_folder, EASY, tmp_path / "cut", width=width)


def test_principal_directions_keep_the_inner_products_of_what_lies_in_a_plane():
    rng = np.random.default_rng(0)
    flat = (rng.standard_normal((50, 2)) @ rng.standard_normal((2, 6)) + 1e-4 * rng.standard_normal((50, 6))).astype(
        "f4"
    )
    directions = principal_directions(flat)
    assert np.allclose(directions @ directions.T, np.eye(6), atol=1e-5)
    cut = flat @ directions[:2].T
    assert np.allclose(cut @ cut.T, flat @ flat.T, atol=1e-2)


def test_vector_of_a_text_without_a_token_stays_zero_when_cut():
    cut = Cut("first numbers", np.eye(2, 4, dtype="f4"), beside=0).map(np.zeros((1, 4), "f4"))
    assert cut.tolist() == [[0, 0]]

"""Fewer layers: a folder that any loader makes the same model of, taught until it is like the tuned one."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import save_dataset
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError, TrainingError
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.exporting.export import export
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.model_writing import write_model_folder
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.training.large_corpora import part_worth_ranking
from docsgpt_embtune.training.smaller import distillation
from docsgpt_embtune.training.smaller.distillation import distill
from docsgpt_embtune.training.smaller.layered_students import (
    evenly_spaced,
    layer_count,
    refuse_count,
    teach,
    write_with_layers,
)
from docsgpt_embtune.training.smaller.shrinking import shrink
from docsgpt_embtune.training.smaller.students import Lesson
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.wording import silent

from ...conftest import TEXTS
from ...sample_questions import TRAINING, VALIDATION


@pytest.fixture(scope="module")
def one_layer(tiny_tuned_folder, tiny_base_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("layers") / "model"
    options = {"layers": 1, "baseline": str(tiny_base_folder), "keep_worse": True}
    return distill(tiny_tuned_folder, TRAINING, VALIDATION, out, **options)


def tuned(model, tmp_path):
    """Write a model of some family as `embtune train` does."""
    folder = tmp_path / "tuned"
    base = tmp_path / "base"
    model.save(str(base))
    write_model_folder(model, base, folder, {"base": {"name": "random"}})
    return folder


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "mpnet", "distilbert"])
def test_layers_of_any_family_are_where_they_were(kind, model_of, tmp_path):
    folder = tuned(model_of(kind), tmp_path)
    model = load_base(BaseModel(kind, folder), "cpu")
    expected = model.encode(list(TEXTS))
    (folder / ".onnx.killed.partial").mkdir()
    students = {}
    for kept in ((0, 1), (0,)):
        out = tmp_path / f"kept {kept}"
        write_with_layers(folder, model, kept, out)
        assert list(out.glob(".*")) == []
        students[kept] = load_base(BaseModel(kind, out), "cpu")
        assert layer_count(students[kept]) == len(kept)
    assert np.allclose(students[0, 1].encode(list(TEXTS)), expected, atol=1e-5)
    assert not np.allclose(students[(0,)].encode(list(TEXTS)), expected, atol=1e-2)
    weights, all_weights = students[(0,)].state_dict(), model.state_dict()
    assert len(weights) < len(all_weights)
    assert all((value == all_weights[name]).all() for name, value in weights.items())


def test_first_and_last_are_kept():
    assert [evenly_spaced(6, count) for count in (1, 2, 3, 4)] == [[0], [0, 5], [0, 2, 5], [0, 2, 3, 5]]
    assert evenly_spaced(24, 6) == [0, 5, 9, 14, 18, 23]


def test_teaching_brings_it_near_the_tuned_model(tiny_tuned_folder, tmp_path):
    teacher = load_base(BaseModel("tiny", tiny_tuned_folder), "cpu")
    texts = [*TRAINING.corpus.values(), *TRAINING.queries.values()]
    wanted = teacher.encode(texts)
    write_with_layers(tiny_tuned_folder, teacher, [0], tmp_path)
    student = load_base(BaseModel("student", tmp_path), "cpu")
    unseen = list(VALIDATION.corpus.values())
    before = (student.encode(unseen) * teacher.encode(unseen)).sum(axis=1).mean()
    teach(student, texts, wanted, epochs=40, seed=0)
    after = (student.encode(unseen) * teacher.encode(unseen)).sum(axis=1).mean()
    assert 1 - after < 0.5 * (1 - before)


@pytest.mark.parametrize("seed", [0, 13])
def test_words_that_are_to_choose_are_not_taught(tiny_tuned_folder, seed):
    teacher = load_base(BaseModel("tiny", tiny_tuned_folder), "cpu")
    reading = Reading(64)
    of_chunks = asked_by_their_words(tiny_tuned_folder, reading, TRAINING.corpus)
    lesson = Lesson(tiny_tuned_folder, teacher, reading, TRAINING, of_chunks, True, None, seed, silent)
    taught = set(lesson.texts(runs_of_words=4, most=1000))
    assert taught >= {*TRAINING.queries.values(), *TRAINING.corpus.values()}
    assert not taught.intersection(lesson.questions)


def test_written_folder_is_the_model_that_was_measured(one_layer):
    record = read_manifest(one_layer.folder)["distilled"]
    untuned, with_all, one = record["trials"]
    assert [untuned["name"].endswith(", untuned"), with_all["name"], one["name"]] == [True, "tuned", "1 of 2 layers"]
    assert record["chosen"] == "1 of 2 layers"
    assert "needs" not in record
    assert json.loads((one_layer.folder / "config.json").read_text())["num_hidden_layers"] == 1
    served = TunedEmbeddings(str(one_layer.folder))
    questions = np.array([served.embed_query(text) for text in VALIDATION.queries.values()])
    chunks = np.array(served.embed_documents(list(VALIDATION.corpus.values())))
    first = (questions @ chunks.T).argmax(axis=1)
    good = [list(VALIDATION.corpus).index(doc_ids[0]) for doc_ids in VALIDATION.relevant_docs.values()]
    assert np.mean(first == good) == pytest.approx(one["recall@1"])
    assert np.allclose(
        StockEmbeddings(one_layer.folder).embed_documents([TEXTS[0]]), served.embed_documents([TEXTS[0]])
    )


def test_exported_it_serves_alike(one_layer, tmp_path):
    folder = shutil.copytree(one_layer.folder, tmp_path / "exported")
    export(folder)
    onnx, torch = (TunedEmbeddings(str(folder), engine=engine) for engine in ("onnx", "torch"))
    assert np.allclose(onnx.embed_documents(list(TEXTS)), torch.embed_documents(list(TEXTS)), atol=1e-5)


def test_chunks_are_read_as_the_tuned_model_reads_them(tiny_tuned_folder, tiny_base_folder, tmp_path):
    folder = shutil.copytree(tiny_tuned_folder, tmp_path / "windowed")
    reading = Reading(32, "mean")
    write_manifest(folder, {**read_manifest(folder), "serving": {"reading": reading.to_dict()}})
    options = {"layers": 1, "baseline": str(tiny_base_folder), "keep_worse": True}
    report = distill(folder, TRAINING, VALIDATION, tmp_path / "out", **options)
    assert Reading.of(report.manifest) == reading
    assert SentenceTransformer(str(report.folder), device="cpu").max_seq_length == 64  # what it is without the plugin


def test_of_a_large_corpus_a_part_is_ranked(tiny_tuned_folder, tiny_base_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "MOST_RANKED", 14)
    said = []
    options = {"layers": 1, "baseline": str(tiny_base_folder), "keep_worse": True, "say": said.append}
    validation = VALIDATION.subset(list(VALIDATION.queries)[:2])
    report = distill(tiny_tuned_folder, TRAINING, validation, tmp_path / "out", **options)
    few = len(part_worth_ranking(validation, 14, seed=13).corpus)
    assert few < len(validation.corpus)
    assert f"            over {few} of the chunks: three models have to read them" in said
    assert report.manifest["data"]["validation"]["corpus"] == few


def test_a_default_prompt_stays(tiny_tuned_folder, tiny_base_folder, tmp_path):
    prompted = shutil.copytree(tiny_tuned_folder, tmp_path / "prompted")
    prompts = {"prompts": {"both": "logs: "}, "default_prompt_name": "both"}
    (prompted / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    write_manifest(prompted, {**read_manifest(prompted), "fingerprint": fingerprint(prompted)})
    options = {"layers": 1, "baseline": str(tiny_base_folder), "keep_worse": True}
    report = distill(prompted, TRAINING, VALIDATION, tmp_path / "out", **options)
    written = json.loads((report.folder / "config_sentence_transformers.json").read_text())
    assert written.items() >= prompts.items()


def test_a_cut_of_the_vectors_stays(tiny_tuned_folder, tiny_base_folder, tmp_path):
    narrow = shrink(tiny_tuned_folder, VALIDATION, tmp_path / "narrow", width=16).folder
    options = {"layers": 1, "baseline": str(tiny_base_folder), "keep_worse": True}
    report = distill(narrow, TRAINING, VALIDATION, tmp_path / "out", **options)
    assert len(TunedEmbeddings(str(report.folder)).embed_query(TEXTS[0])) == 16


@pytest.mark.parametrize("count", [0, 2, 3])
def test_it_must_be_fewer_layers_than_there_are(count, tiny_tuned_folder, tmp_path):
    with pytest.raises(
        TrainingError, match=f"has 2 layers, of which {count} cannot be kept; set --layers to 1 up to 1"
    ):
        distill(tiny_tuned_folder, TRAINING, VALIDATION, tmp_path / "out", layers=count)


def test_one_layer_cannot_be_left_out():
    with pytest.raises(TrainingError, match="no layers that could be left out; distill it without --layers"):
        refuse_count(1, 1)


@pytest.mark.parametrize("layers", [None, 1])
def test_tuned_model_is_not_written_over(layers, tiny_tuned_folder, tiny_base_folder, tmp_path):
    tuned = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    (tmp_path / "link").symlink_to(tuned)
    for given, out in ((tuned, tmp_path / "link"), (tmp_path / "link", tuned)):
        with pytest.raises(ModelFolderError, match="is the model to begin with, and would be gone"):
            distill(given, TRAINING, VALIDATION, out, layers=layers, baseline=str(tiny_base_folder), keep_worse=True)
        with pytest.raises(ModelFolderError, match="is the model to begin with, and would be gone"):
            shrink(given, VALIDATION, out, width=16)
    assert read_manifest(tuned) == read_manifest(tiny_tuned_folder)


@pytest.mark.parametrize("layers", [None, 1])
def test_baseline_that_is_nowhere_is_refused_before_the_work(layers, tiny_tuned_folder, tmp_path):
    said = []
    options = {"layers": layers, "baseline": str(tmp_path / "nowhere"), "say": said.append}
    with pytest.raises(ModelFolderError, match="nowhere: no such folder"):
        distill(tiny_tuned_folder, TRAINING, VALIDATION, tmp_path / "out", **options)
    assert said == []


def test_command_line(tiny_tuned_folder, tiny_base_folder, tmp_path):
    save_dataset(TRAINING, tmp_path / "train.json")
    save_dataset(VALIDATION, tmp_path / "val.json")
    files = [
        "--train",
        str(tmp_path / "train.json"),
        "--val",
        str(tmp_path / "val.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(
        main,
        [
            "distill",
            str(tiny_tuned_folder),
            *files,
            "--layers",
            "1",
            "--baseline",
            str(tiny_base_folder),
            "--keep-worse",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "1 of 2 layers" in result.stdout
    assert "\nstored chunks have to be embedded again" in result.stdout
    result = CliRunner().invoke(main, ["distill", str(tiny_tuned_folder), *files, "--layers", "2"])
    assert result.exit_code == 2
    assert "set --layers to 1 up to 1" in result.output


def test_static_model_has_no_layers_to_leave_out(tiny_tuned_folder, tiny_base_folder, tmp_path):
    options = {"baseline": str(tiny_base_folder), "keep_worse": True}
    static = distill(tiny_tuned_folder, TRAINING, VALIDATION, tmp_path / "static", **options)
    with pytest.raises(ModelFolderError, match="is a static model already"):
        distill(static.folder, TRAINING, VALIDATION, tmp_path / "out", layers=1)

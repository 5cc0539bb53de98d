import json
import re
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from docsgpt_embtune.base_models import BUNDLED, HOST_DEFAULT, BaseModel, resolve_base
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import (
    check_destination,
    fingerprint,
    refuse_foreign_destination,
    size_of_model,
    verify,
)
from docsgpt_embtune.model_writing import write_model_folder, zip_model_folder
from docsgpt_embtune.training.trainer import load_base
from docsgpt_embtune.wording import silent

TEXTS = ["logs are kept", "a worker is restarted", "ünïcödé 数据"]


@pytest.fixture
def written(tiny_base_folder, tmp_path):
    def write(name="tuned", shift=0.01):
        model = load_base(BaseModel("tiny", tiny_base_folder), "cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += shift
        write_model_folder(model, tiny_base_folder, tmp_path / name, {"base": {"name": "tiny"}})
        return model, tmp_path / name

    return write


def test_layout_is_the_one_that_old_versions_read(written):
    _, folder = written()
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert set(json.loads((folder / "sentence_bert_config.json").read_text())) == {"max_seq_length", "do_lower_case"}
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 32
    assert not [key for key in pooling if key in ("pooling_mode", "embedding_dimension")]


def test_vectors_are_the_tuned_models_and_weights_are_fp32(written):
    from safetensors.torch import load_file

    model, folder = written()
    assert np.allclose(SentenceTransformer(str(folder), device="cpu").encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_every_file_can_be_read_by_other_users(written):
    _, folder = written()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert all(mode & 0o444 == 0o444 for mode in modes.values()), modes


def test_base_that_does_not_normalise_gets_it(tiny_base_folder, tmp_path):
    transformer = Transformer(str(tiny_base_folder))
    SentenceTransformer(modules=[transformer, Pooling(32, "cls")], device="cpu").save(str(tmp_path / "base"))
    base = BaseModel("cls", tmp_path / "base")
    write_model_folder(load_base(base, "cpu"), base.folder, tmp_path / "tuned", {})
    served = SentenceTransformer(str(tmp_path / "tuned"), device="cpu")
    assert np.linalg.norm(served.encode(TEXTS), axis=1) == pytest.approx(1.0)
    assert json.loads((tmp_path / "tuned/1_Pooling/config.json").read_text())["pooling_mode_cls_token"] is True


def test_base_that_cuts_its_vectors_is_written_whole(tiny_base_folder, tmp_path):
    SentenceTransformer(str(tiny_base_folder), device="cpu", truncate_dim=8).save(str(tmp_path / "base"))
    base = BaseModel("cut", tmp_path / "base")
    assert write_model_folder(load_base(base, "cpu"), base.folder, tmp_path / "tuned", {})["dimension"] == 32
    assert SentenceTransformer(str(tmp_path / "tuned"), device="cpu").encode(TEXTS).shape == (len(TEXTS), 32)


def test_plain_transformer_becomes_a_base(tiny_base_folder, tmp_path):
    source = SentenceTransformer(str(tiny_base_folder), device="cpu")
    source[0].auto_model.save_pretrained(tmp_path / "bert")
    source.tokenizer.save_pretrained(tmp_path / "bert")
    model = load_base(resolve_base(str(tmp_path / "bert")), "cpu")
    write_model_folder(model, tmp_path / "bert", tmp_path / "tuned", {})
    assert np.allclose(SentenceTransformer(str(tmp_path / "tuned"), device="cpu").encode(TEXTS), model.encode(TEXTS))


def test_module_that_needs_remote_code_is_refused(tiny_base_folder, tmp_path):
    class Rotate(torch.nn.Module):
        def forward(self, features):
            return features

    model = load_base(BaseModel("tiny", tiny_base_folder), "cpu")
    model.insert(1, Rotate())
    with pytest.raises(ModelFolderError, match="module 1 of the model is a Rotate"):
        write_model_folder(model, tiny_base_folder, tmp_path / "tuned", {})
    assert not list(tmp_path.iterdir())


def test_vectors_that_are_not_finite_are_never_written(tiny_base_folder, tmp_path):
    model = load_base(BaseModel("tiny", tiny_base_folder), "cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelFolderError, match="not finite"):
        write_model_folder(model, tiny_base_folder, tmp_path / "tuned", {})
    assert not list(tmp_path.iterdir())


def test_fingerprint_is_of_the_vectors_and_not_of_the_rest(written):
    _, folder = written()
    before = fingerprint(folder)
    (folder / "README.md").write_text("a note")
    assert fingerprint(folder) == before
    _, other = written("other", shift=0.02)
    assert fingerprint(other) != before


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
)
def test_any_change_that_matters_is_found(written, name):
    _, folder = written()
    verify(folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ModelFolderError, match="half-copied or changed"):
        verify(folder)


@pytest.mark.parametrize("name", ["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "0_Static/tokenizer.json"])
def test_files_of_other_modules_are_part_of_the_identity(written, name):
    _, folder = written()
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(b"of another layer")
    with pytest.raises(ModelFolderError, match="half-copied or changed"):
        verify(folder)


def test_which_prompt_is_the_default_is_part_of_the_identity(written):
    _, folder = written()
    prompts = {"prompts": {"query": "find: ", "document": ""}}
    found = []
    for name in ("query", "document"):
        content = json.dumps({**prompts, "default_prompt_name": name})
        (folder / "config_sentence_transformers.json").write_text(content)
        found.append(fingerprint(folder))
    assert found[0] != found[1]


def test_model_that_would_not_be_served_as_it_was_tuned_is_not_written(tiny_base_folder, tmp_path):
    other = Path(shutil.copytree(tiny_base_folder, tmp_path / "other"))
    words = json.loads((other / "tokenizer.json").read_text())
    of_word = words["model"]["vocab"]
    words["model"]["vocab"] = dict(zip(of_word, reversed(of_word.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(words))
    model = load_base(BaseModel("tiny", tiny_base_folder), "cpu")
    with pytest.raises(ModelFolderError, match="the written model differs from the tuned one"):
        write_model_folder(model, other, tmp_path / "tuned", {})
    assert not (tmp_path / "tuned").exists()


def test_folder_of_something_else_is_left_alone(tiny_base_folder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "kept.txt").write_text("mine")
    model = load_base(BaseModel("tiny", tiny_base_folder), "cpu")
    with pytest.raises(ModelFolderError, match="exists and is not a tuned model; choose another --out"):
        write_model_folder(model, tiny_base_folder, tmp_path / "notes", {})
    assert (tmp_path / "notes" / "kept.txt").read_text() == "mine"


def test_changed_folder_is_not_packed(written, tmp_path):
    _, folder = written()
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ModelFolderError, match="half-copied or changed"):
        zip_model_folder(folder)
    assert not list(tmp_path.glob("*.zip"))


def test_prompts_are_part_of_the_identity(written):
    _, folder = written()
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "find: "}}))
    with pytest.raises(ModelFolderError, match="half-copied or changed"):
        verify(folder)


@pytest.mark.parametrize("content", ["", '{"prompts": {"qu', "[]", "[" * 100_000])
def test_half_copied_prompts_are_said(written, content):
    _, folder = written()
    (folder / "config_sentence_transformers.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"config_sentence_transformers\.json: broken .*copy the model again"):
        verify(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "fingerprint": "x"}', '{"schema": 2, "fingerprint": "x"}'],
)
def test_broken_manifest_is_said(written, content):
    _, folder = written()
    (folder / "embtune.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"broken|schema 2"):
        read_manifest(folder)


def test_replacing_is_one_step_and_leaves_nothing_behind(written, tmp_path):
    _, folder = written()
    first = fingerprint(folder)
    written(shift=0.02)
    assert fingerprint(folder) != first
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_zip_holds_the_files_at_its_root_and_is_the_same_each_time(written, tmp_path):
    _, folder = written()
    first = zip_model_folder(folder).read_bytes()
    (folder / "modules.json").touch()
    again = zip_model_folder(folder, tmp_path / "again.zip")
    assert again.read_bytes() == first
    with zipfile.ZipFile(again) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert verify(tmp_path / "unpacked") == read_manifest(folder)


def test_bundled_weights_are_the_published_ones():
    found = resolve_base(BUNDLED)
    assert found.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert load_base(found, "cpu").get_embedding_dimension() == 384


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "not a/model name!"])
def test_base_that_is_nowhere_is_said(name):
    with pytest.raises(ModelFolderError, match=r"no such folder|neither a folder"):
        resolve_base(name)


def test_docsgpts_own_names_are_known(monkeypatch, tmp_path, tiny_base_folder):
    asked = []
    monkeypatch.setattr("docsgpt_embtune.base_models._download", lambda name: asked.append(name) or tiny_base_folder)
    monkeypatch.chdir(tmp_path)
    assert resolve_base(HOST_DEFAULT).folder == tiny_base_folder
    resolve_base("huggingface_hkunlp/instructor-large")
    assert asked == ["sentence-transformers/all-mpnet-base-v2", "hkunlp/instructor-large"]
    carried = shutil.copytree(tiny_base_folder, tmp_path / "models" / "all-mpnet-base-v2")  # a checkout of DocsGPT
    assert resolve_base(HOST_DEFAULT).folder == carried
    assert len(asked) == 2


def test_hub_name_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFolderError, match="give 'bundled', or a folder that holds the model"):
        resolve_base("WhereIsAI/UAE-Large-V1")


def test_a_model_with_code_of_its_own_is_refused_before_it_loads(tiny_base_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_base_folder, tmp_path / "model"))
    assert resolve_base(str(folder)).folder == folder.resolve()
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "type": "custom_st.Transformer"}]))
    (folder / "custom_st.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ModelFolderError, match=r"module 'custom_st\.Transformer' is code of the model's own"):
        resolve_base(str(folder))
    router = {"idx": 0, "path": "router", "type": "sentence_transformers.models.Router"}
    (folder / "modules.json").write_text(json.dumps([router]))
    (folder / "router").mkdir()
    types = {"query_0_Other": "sentence_transformers.models.Router", "document_0": "sentence_transformers.models.Dense"}
    (folder / "router" / "router_config.json").write_text(json.dumps({"types": types}))
    assert resolve_base(str(folder)).folder == folder
    (folder / "router" / "query_0_Other").mkdir()
    within = {"types": {"query_0": "custom_st.Transformer"}}
    (folder / "router" / "query_0_Other" / "config.json").write_text(json.dumps(within))  # as older versions call it
    with pytest.raises(ModelFolderError, match=r"module 'custom_st\.Transformer' is code of the model's own"):
        resolve_base(str(folder))
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(ModelFolderError, match=r"modules\.json: broken"):
        resolve_base(str(folder))


@pytest.mark.parametrize(
    ("kind", "config", "imported"),
    [
        ("SentenceTransformer", {}, "sentence_transformers.SentenceTransformer"),  # of which nobody reads the modules
        ("base.model.torch", {}, "sentence_transformers.base.model.torch"),  # torch.load takes a pickle
        ("models.Asym", {"config.json": {"types": {"query_0": "custom_st.Transformer"}}}, "custom_st.Transformer"),
        ("models.Dense", {"config.json": {"activation_function": "custom_st.run"}}, "custom_st.run"),
        (
            "models.WordEmbeddings",
            {"wordembedding_config.json": {"tokenizer_class": "custom_st.Words"}},
            "custom_st.Words",
        ),
    ],
)
def test_what_a_module_brings_to_be_imported_is_refused(kind, config, imported, tiny_base_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_base_folder, tmp_path / "model"))
    module = {"idx": 0, "path": "0_Module", "type": f"sentence_transformers.{kind}"}
    (folder / "modules.json").write_text(json.dumps([module]))
    (folder / "0_Module").mkdir()
    for name, content in config.items():
        (folder / "0_Module" / name).write_text(json.dumps(content))
    with pytest.raises(ModelFolderError, match=rf"module '{re.escape(imported)}' is code of the model's own"):
        resolve_base(str(folder))


def test_a_link_to_a_model_stays_what_it_is_called(tiny_tuned_folder, tmp_path):
    (tmp_path / "current").symlink_to(tiny_tuned_folder)
    assert resolve_base(str(tmp_path / "current")).folder == tmp_path / "current"
    said = []
    with pytest.raises(ModelFolderError, match="is the model to begin with"):
        check_destination(tiny_tuned_folder, said.append, made_of=tmp_path / "current")
    with pytest.raises(ModelFolderError, match="lies within the model to begin with"):
        check_destination(tmp_path / "current" / "adapted", said.append, made_of=tiny_tuned_folder)


def test_a_model_of_the_hub_comes_without_code_and_is_refused_with_it(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, *, ignore_patterns):
        asked.extend(ignore_patterns)
        (tmp_path / "modules.json").write_text('[{"type": "custom_st.Transformer"}]')
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelFolderError, match="code of the model's own"):
        resolve_base("somebody/model")
    assert "*.py" in asked


@pytest.mark.parametrize("name", [".", "..", "/", "/proc", "nowhere/.."])
def test_folders_that_cannot_be_replaced_are_refused_before_the_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFolderError, match="cannot be replaced in one step; choose an --out below it"):
        refuse_foreign_destination(Path(name))


def test_a_destination_that_cannot_be_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelFolderError, match=r"file is not a folder; choose another --out"):
        refuse_foreign_destination(tmp_path / "file" / "below" / "model")
    refuse_foreign_destination(tmp_path / "new" / "below" / "model")


def test_a_disk_without_room_for_a_model_is_told_before_the_work(tiny_tuned_folder, tmp_path, monkeypatch):
    size = size_of_model(tiny_tuned_folder)

    def take_with(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, free))
        check_destination(tmp_path / "new", silent, made_of=tiny_tuned_folder)

    take_with(size)
    with pytest.raises(ModelFolderError, match=r"new: .* MB free, and .* MB are needed for the model; make room"):
        take_with(size - 1)


def test_a_tuned_folder_that_will_be_replaced_is_named(written, tmp_path):
    said: list[str] = []
    check_destination(tmp_path / "new", said.append)
    assert not said
    _, folder = written()
    check_destination(folder, said.append)
    assert said == [f"replaces    {folder}, if a model is written"]


def test_size_of_a_model_counts_its_weights_once(written):
    _, folder = written()
    size = size_of_model(folder)
    assert size > (folder / "model.safetensors").stat().st_size
    shutil.copyfile(folder / "model.safetensors", folder / "pytorch_model.bin")
    assert size_of_model(folder) == size
    (folder / "model.safetensors").unlink()
    assert size_of_model(folder) == size

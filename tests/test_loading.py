"""Loading of model folders: what cannot be loaded, or makes no vectors, is an error of one line."""

import json
import shutil

import pytest
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from docsgpt_embtune.embeddings import StockEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.loading import load_model


@pytest.fixture
def base(tiny_base_folder, tmp_path):
    return shutil.copytree(tiny_base_folder, tmp_path / "base")


def refused(folder):
    with pytest.raises(ModelFolderError) as caught:
        load_model(folder, device="cpu")
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message


def test_folder_without_weights_or_of_an_unknown_kind_is_named(base):
    (base / "model.safetensors").rename(base / "model.onnx")
    assert "no file named model.safetensors" in refused(base)
    (base / "model.onnx").rename(base / "model.safetensors")
    (base / "model.safetensors").write_bytes(b"half a file")
    assert "cannot be loaded" in refused(base)
    (base / "config.json").write_text(json.dumps({"model_type": "nomic_bert", "auto_map": {"AutoModel": "own.Model"}}))
    assert "cannot be loaded" in refused(base)
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        StockEmbeddings(base)


def test_model_that_makes_no_vectors_of_texts_is_refused(base, tmp_path):
    settings = base / "config_sentence_transformers.json"
    for kind in ("CrossEncoder", "SparseEncoder"):
        settings.write_text(json.dumps({"model_type": kind}))
        assert f"is a {kind}, which does not make" in refused(base)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=9, num_labels=1, **sizes)).save_pretrained(tmp_path / "plain")
    assert "is a CrossEncoder" in refused(tmp_path / "plain")


def test_loading_shows_no_bars_and_leaves_those_of_others(tiny_base_folder, capfd):
    for show, shown in ((logging.enable_progress_bar, True), (logging.disable_progress_bar, False)):
        show()
        load_model(tiny_base_folder, device="cpu")
        assert logging.is_progress_bar_enabled() is shown
    logging.enable_progress_bar()
    assert capfd.readouterr() == ("", "")

"""What an embedding model and a cross-encoder find that words alone do not show."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import BPE

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.preparation.answering import like_the_good_chunk

from .made_up_data import made_up, prepare, write


def test_model_tells_a_bad_chunk_that_says_the_same_in_other_letters(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["corpus"] |= {
        "good": "Logs are kept for a week.",
        "same": "Lögs are kept fór a wéek.",  # other letters, but this model reads no accents
        "other": "An invoice",
    }
    data["queries"]["q"] = "How long are logs kept?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["same", "other"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", str(tiny_base_folder)])
    assert "bad chunks that may answer, to be read by a person: 1 (" in result.output, result.output
    assert "q same: How long are logs kept?" in result.output


def test_model_is_asked_of_no_bad_chunk_that_is_not_there(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["irrelevant_docs"]["q0"] = ["gone"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", str(tiny_base_folder)])
    assert "question or chunk that is not there: 1 (unknown-id)" in result.output, result.output


def test_model_tells_a_bad_chunk_that_answers_in_other_words_from_one_that_does_not(tmp_path):
    data = made_up(6)
    data["corpus"] |= {
        "good": "Log files are kept for seven days and deleted after that.",
        "same": "It takes one week until old log files are deleted.",
        "other": "Log files are written by every worker into a folder of its own.",
    }
    data["queries"]["q"] = "How long until log files are deleted?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["same", "other"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", "bundled"])
    assert "bad chunks that may answer, to be read by a person: 1 (" in result.output, result.output
    assert "q same: How long until" in result.output
    assert result.exit_code == 0  # a suspicion is nothing serious


def test_chunk_of_which_a_model_reads_nothing_is_like_no_other(tmp_path):
    tokenizer = Tokenizer(BPE(vocab={letter: number for number, letter in enumerate("logskept")}, merges=[]))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(tmp_path))
    corpus = {"good": "kept", "bad": "数据"}
    assert like_the_good_chunk({"q": "logs"}, corpus, [("q", "bad", "good")], [], str(tmp_path)) == []


@pytest.mark.usefixtures("every_line")
def test_cross_encoder_tells_a_bad_chunk_that_answers_as_well_as_the_good_one(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["corpus"] |= {"good": "Logs are kept for a week.", "bad": "An invoice can be cancelled."}
    data["queries"]["q"] = "How long are logs kept?"
    data["relevant_docs"]["q"], data["irrelevant_docs"]["q"] = ["good"], ["bad"]
    swapped = data | {"relevant_docs": data["relevant_docs"] | {"q": ["bad"]}, "irrelevant_docs": {"q": ["good"]}}
    folder = cross_encoder(tmp_path / "cross-encoder", tiny_base_folder)
    results = [
        CliRunner().invoke(
            main, ["prepare", str(write(tmp_path, content)), "--model", "none", "--cross-encoder", str(folder)]
        )
        for content in (data, swapped)
    ]
    # Its weights are random, but whichever chunk it prefers, it prefers it in both.
    assert sorted(result.exit_code for result in results) == [0, 1], [result.output for result in results]
    found = next(result for result in results if result.exit_code == 1)
    assert "bad chunks that answer after all: 1 (bad-chunk-answers)" in found.output
    assert "asking the cross-encoder" in found.stderr
    assert "Batches" not in found.stderr


def cross_encoder(folder: Path, base: Path) -> Path:
    """A random one that reads the base's words."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_folder_that_is_no_cross_encoder_is_refused(tmp_path):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    (tmp_path / "nothing").mkdir()
    result = prepare(write(tmp_path, data), "--cross-encoder", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
    assert "Traceback" not in result.stderr


def test_model_without_a_head_is_no_cross_encoder(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    result = prepare(write(tmp_path, data), "--cross-encoder", tiny_base_folder)
    assert result.exit_code == 2, result.output
    assert f"{tiny_base_folder}: no cross-encoder" in result.stderr
    assert "(BertModel)" in result.stderr


@pytest.mark.usefixtures("every_line")
def test_bars_say_what_is_embedded(tmp_path, tiny_base_folder):
    data = made_up(6)
    data["irrelevant_docs"]["q1"] = ["c2"]
    result = CliRunner().invoke(main, ["prepare", str(write(tmp_path, data)), "--model", str(tiny_base_folder)])
    assert "embedding questions" in result.stderr
    assert "embedding chunks" in result.stderr
    assert "Batches" not in result.stderr

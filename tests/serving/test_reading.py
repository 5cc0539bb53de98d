"""Long chunks, read to their end."""

import json
import shutil

import numpy as np
import pytest

from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import fingerprint
from docsgpt_embtune.serving.reading import WindowReader

from ..conftest import TEXTS

LONG = " ".join(TEXTS)  # twice what the tiny model reads


@pytest.fixture
def windowed(tiny_exported_folder, tmp_path):
    folder = shutil.copytree(tiny_exported_folder, tmp_path / "windowed")
    manifest = read_manifest(folder)
    manifest["serving"]["reading"] = {"max_seq_length": 32, "windows": "mean"}
    (folder / "embtune.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    "reading",
    [{"max_seq_length": 32, "stride": 8}, {"windows": "mean"}, {"max_seq_length": 32, "windows": "first and last"}],
)
def test_reading_that_this_version_does_not_know_is_refused(windowed, reading):
    manifest = read_manifest(windowed)
    manifest["serving"]["reading"] = reading
    (windowed / "embtune.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFolderError, match=r"cannot read chunks as .*; upgrade docsgpt-embtune"):
        TunedEmbeddings(str(windowed))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_end_of_a_long_chunk_is_read(windowed, tiny_exported_folder, engine):
    chunks = [f"{LONG} {end}" for end in (TEXTS[0], TEXTS[4])]
    cut = TunedEmbeddings(str(tiny_exported_folder), engine=engine).embed_documents(chunks)
    read = TunedEmbeddings(str(windowed), engine=engine).embed_documents(chunks)
    assert cut[0] == pytest.approx(cut[1], abs=1e-6)
    assert read[0] != pytest.approx(read[1], abs=1e-3)
    assert np.linalg.norm(read, axis=1) == pytest.approx(1.0)


def test_both_engines_read_alike(windowed):
    chunks = [LONG, *TEXTS, LONG * 3, "x", "unbroken" * 200]
    onnx, torch = (TunedEmbeddings(str(windowed), engine=engine) for engine in ("onnx", "torch"))
    assert np.allclose(onnx.embed_documents(chunks), torch.embed_documents(chunks), atol=1e-5)
    assert onnx.fingerprint == torch.fingerprint != fingerprint(windowed)


def test_vector_is_the_mean_of_the_windows_weighted_by_their_tokens(windowed):
    reader = WindowReader(windowed, 32)
    windows = list(reader._cut(LONG))
    embeddings = TunedEmbeddings(str(windowed))
    vectors = np.array(embeddings.embed_documents([text for text, _ in windows]))
    mean = vectors.T @ np.array([tokens for _, tokens in windows])
    assert embeddings.embed_documents([LONG])[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_windows_leave_room_for_the_default_prompt(windowed):
    prompts = {"prompts": {"both": "logs are kept for a week "}, "default_prompt_name": "both"}
    (windowed / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = WindowReader(windowed, 32)
    assert max(tokens for _, tokens in prompted._cut(LONG * 4)) <= 32 - 2 - 6


def test_windows_cover_the_text_between_words_in_like_lengths(windowed):
    windows = list(WindowReader(windowed, 32)._cut(LONG * 4))
    assert " ".join(text for text, _ in windows).split() == (LONG * 4).split()
    lengths = [tokens for _, tokens in windows]
    assert max(lengths) <= 30
    assert min(lengths) > 15


def test_chunk_that_fits_and_every_question_are_what_they_are_without_windows(windowed, tiny_exported_folder):
    with_windows, without = (TunedEmbeddings(str(folder)) for folder in (windowed, tiny_exported_folder))
    assert with_windows.embed_documents(["x", TEXTS[0]]) == without.embed_documents(["x", TEXTS[0]])
    beside_a_long_one = with_windows.embed_documents(["x", LONG, TEXTS[0]])
    assert np.allclose(beside_a_long_one[::2], without.embed_documents(["x", TEXTS[0]]), rtol=0, atol=1e-6)
    question = with_windows.embed_query(LONG)
    assert question == pytest.approx(with_windows.embed_query(f"{LONG} {TEXTS[4]}"), abs=1e-6)
    assert question != pytest.approx(with_windows.embed_documents([LONG])[0], abs=1e-3)

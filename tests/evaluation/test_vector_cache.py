import logging
import os
import pwd
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.evaluation import vector_cache
from docsgpt_embtune.evaluation.vector_cache import (
    ROWS_PER_BLOCK,
    RememberedDocuments,
    VectorCache,
    default_cache_folder,
    embed_corpus,
    embed_queries,
)

MODEL, OTHER_MODEL = "ab" * 32, "cd" * 32
TEXTS = [f"chunk {i} " + "x" * (i % 37) for i in range(3 * ROWS_PER_BLOCK + 100)]


class SpectrumEmbeddings:
    """Makes a vector of a text's bytes; counts what it was asked."""

    dimension = 8

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.asked: list[str] = []

    def embed_query(self, text):
        return self.embed_documents([text])[0]

    def embed_documents(self, texts):
        self.asked.extend(texts)
        return [(np.bincount(np.frombuffer(text.encode(), np.uint8) % 8, minlength=8) + self.shift) for text in texts]


def stored(folder, model=None, fingerprint=MODEL, texts=TEXTS):
    model = model or SpectrumEmbeddings()
    vectors = embed_corpus(model, texts, VectorCache(folder, fingerprint, model.dimension)).array()
    return vectors, model


def blocks(folder):
    return sorted(folder.rglob("*.npy"))


def test_vectors_come_back_in_the_order_of_the_texts_and_are_embedded_once(tmp_path):
    first, model = stored(tmp_path)
    assert np.array_equal(first, SpectrumEmbeddings().embed_documents(TEXTS))
    assert sorted(model.asked) == sorted(TEXTS)
    assert [len(text) for text in model.asked] == sorted(map(len, TEXTS), reverse=True)
    again, model = stored(tmp_path, texts=TEXTS[::-1] + TEXTS[:5])
    assert not model.asked
    assert np.array_equal(again, np.vstack([first[::-1], first[:5]]))


def test_remembered_chunks_are_not_embedded_again_and_questions_are(tmp_path):
    expected, _ = stored(tmp_path, texts=TEXTS[:20])
    model = SpectrumEmbeddings()
    remembered = RememberedDocuments(model, VectorCache(tmp_path, MODEL, model.dimension))
    vectors = remembered.embed_documents(TEXTS[:21])
    assert np.array_equal(vectors[:20], expected)
    assert model.asked == TEXTS[20:21]
    assert type(vectors[0][0]) is float
    remembered.embed_query(TEXTS[0])
    assert model.asked == [TEXTS[20], TEXTS[0]]
    assert remembered.dimension == 8


def test_only_new_texts_are_embedded(tmp_path):
    stored(tmp_path, texts=TEXTS[:600])
    _, model = stored(tmp_path, texts=TEXTS[:700])
    assert sorted(model.asked) == sorted(TEXTS[600:700])


def test_a_question_is_not_taken_for_a_chunk_of_the_same_text(tmp_path):
    stored(tmp_path, texts=["same"])
    model = SpectrumEmbeddings()
    embed_queries(model, ["same"], VectorCache(tmp_path, MODEL, 8))
    assert model.asked == ["same"]


def test_models_do_not_share_vectors(tmp_path):
    stored(tmp_path)
    vectors, model = stored(tmp_path, SpectrumEmbeddings(shift=1.0), OTHER_MODEL)
    assert len(model.asked) == len(TEXTS)
    assert np.array_equal(vectors, SpectrumEmbeddings(shift=1.0).embed_documents(TEXTS))


@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_shards_hold_every_text_once(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(vector_cache, "BLOCKS_PER_SHARD", blocks)  # of four
    vectors = embed_corpus(SpectrumEmbeddings(), TEXTS, VectorCache(tmp_path, MODEL, 8))
    shards = [positions for positions, _ in vectors.shards()]
    assert sorted(np.concatenate(shards)) == list(range(len(TEXTS)))
    assert all((np.diff(positions) > 0).all() for positions in shards)
    assert np.array_equal(vectors.array(), SpectrumEmbeddings().embed_documents(TEXTS))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def swap_two_vectors(path):
    block = np.load(path)
    block["vector"][[0, 1]] = block["vector"][[1, 0]]
    np.save(path, block)


def swap_two_texts(path):
    block = np.load(path)
    block["key"][[0, 1]] = block["key"][[1, 0]]
    np.save(path, block)


def something_else(path):
    np.save(path, np.zeros(3))


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty, swap_two_vectors, swap_two_texts, something_else])
def test_a_damaged_block_is_found_out_said_and_embedded_again(tmp_path, caplog, damage):
    right, _ = stored(tmp_path)
    path = blocks(tmp_path)[1]
    rows = len(np.load(path))
    damage(path)
    with caplog.at_level(logging.WARNING):
        again, model = stored(tmp_path)
    assert np.array_equal(again, right)
    assert len(model.asked) == rows
    assert f"{path}: not what this model wrote" in caplog.text
    assert not stored(tmp_path)[1].asked


def test_blocks_of_another_model_are_found_out(tmp_path, caplog):
    stored(tmp_path, SpectrumEmbeddings(shift=1.0), OTHER_MODEL)
    (tmp_path / OTHER_MODEL[:32]).rename(tmp_path / MODEL[:32])
    vectors, model = stored(tmp_path)
    assert len(model.asked) == len(TEXTS)
    assert np.array_equal(vectors, SpectrumEmbeddings().embed_documents(TEXTS))
    assert caplog.text.count("not what this model wrote") == 4


def test_what_a_killed_run_left_half_written_goes_when_it_is_old(tmp_path):
    stored(tmp_path)
    folder = blocks(tmp_path)[0].parent
    old, being_written = folder / ".a.npy.x.partial", folder / ".b.npy.y.partial"
    for path in (old, being_written):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    stored(tmp_path, texts=[*TEXTS, "one more"])
    assert not old.exists()
    assert being_written.exists()


def test_a_cache_that_cannot_be_read_or_made_is_said_and_nothing_is_removed(tmp_path):
    stored(tmp_path, texts=TEXTS[:5])
    (blocks(tmp_path)[0].parent / "folder.npy").mkdir()
    with pytest.raises(EvaluationError, match=r"folder.npy: cannot be read \(Is a directory\); remove it"):
        stored(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"cannot be made \(Not a directory\); give another --cache$"):
        stored(tmp_path / "file")


def test_who_has_no_cache_folder_goes_without(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "docsgpt-embtune" / "vectors"
    (tmp_path / "docsgpt-embtune").touch()  # which not even root can write into
    assert default_cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a container's user id that /etc/passwd does not know
    assert default_cache_folder() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[1.0, 2.0], [np.nan, 0.0], [3.0, np.inf]], r"not finite for 2 of 3 texts \(first: 'bb'\)"),
        ([[1.0, 2.0], [1.0], [1.0, 2.0]], r"returned 3 vectors of width \[1, 2\] for 3 texts"),
        ([[1.0, 2.0], [1.0, 2.0]], r"returned 2 vectors of width \[2\] for 3 texts"),
    ],
)
def test_vectors_that_are_wrong_are_said_and_not_kept(tmp_path, given, said):
    with pytest.raises(EvaluationError, match=said):
        VectorCache(tmp_path, MODEL, 2).embed(["aaa", "bb", "c"], "document", lambda texts: given)
    assert not blocks(tmp_path)


STOPPED_RUN = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from tests.evaluation.test_vector_cache import *

    class Stopped(SpectrumEmbeddings):
        def embed_documents(self, texts):
            if len(self.asked) >= len(TEXTS) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().embed_documents(texts)

    stored(Path(sys.argv[1]), Stopped())
    """
)


def test_a_run_killed_at_half_goes_on_where_it_was(tmp_path):
    whole, _ = stored(tmp_path / "whole")
    killed = subprocess.run([sys.executable, "-c", STOPPED_RUN, str(tmp_path / "half")], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    kept = sum(len(np.load(path)) for path in blocks(tmp_path / "half"))
    assert kept == 2 * ROWS_PER_BLOCK
    resumed, model = stored(tmp_path / "half")
    assert len(model.asked) == len(TEXTS) - kept
    assert resumed.tobytes() == whole.tobytes()
    assert [path.read_bytes() for path in blocks(tmp_path / "half")] == [
        path.read_bytes() for path in blocks(tmp_path / "whole")
    ]


FULL_DISK = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from tests.evaluation.test_vector_cache import *

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    try:
        stored(Path(sys.argv[1]))
    except EvaluationError as error:
        sys.exit(str(error))
    """
)


def test_a_disk_that_fills_up_is_said_and_all_is_right_afterwards(tmp_path):
    failed = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], timeout=120, capture_output=True)
    assert failed.returncode == 1
    assert b"cannot be written (File too large); free space or give another --cache" in failed.stderr
    assert not list(tmp_path.rglob("*.partial"))
    vectors, _ = stored(tmp_path)
    assert np.array_equal(vectors, SpectrumEmbeddings().embed_documents(TEXTS))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_embedded(tmp_path):
    model = SpectrumEmbeddings()
    cache = VectorCache(tmp_path, MODEL, 2**28)  # 1 GiB each
    with pytest.raises(EvaluationError, match=r"MB free, and 53,6\d\d,\d{3} MB are needed for 50,000 vectors"):
        embed_corpus(model, [str(number) for number in range(50_000)], cache)
    assert not model.asked

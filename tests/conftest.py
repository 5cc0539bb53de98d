"""Shared fixtures, with tiny models built here, so that no test downloads anything."""

import gc
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

TEXTS = (
    "Logs are rotated every night and kept for a week.",
    "A worker is restarted when it uses more than four gigabytes of memory.",
    "Passwords are reset from the account page; the link is valid for one hour.",
    "The backup is written to the second disk and verified in the morning.",
    "An invoice can be cancelled until it has been sent to the customer.",
)


def pytest_collection_finish():
    """Exempt imported objects from the garbage collection after each fit, which took most of a tiny model's fit."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_engine_in_the_environment():
    """Unset EMBTUNE_ENGINE, so that the tests choose the engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EMBTUNE_ENGINE", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory) -> Path:
    """A random BERT of two layers with mean pooling and Normalize, as a sentence-transformers folder."""
    return build_tiny_folder(tmp_path_factory.mktemp("base"), seed=0)


@pytest.fixture(scope="session")
def tiny_tuned_folder(tiny_base_folder, tmp_path_factory) -> Path:
    """A folder as `embtune train` writes it: the tiny base with other weights."""
    from sentence_transformers import SentenceTransformer

    from docsgpt_embtune.model_writing import write_model_folder

    other = SentenceTransformer(str(build_tiny_folder(tmp_path_factory.mktemp("other"), seed=1)), device="cpu")
    out = tmp_path_factory.mktemp("models") / "tuned"
    write_model_folder(other, tiny_base_folder, out, {"base": {"name": "tiny"}})
    return out


@pytest.fixture
def ctrl_c_is_heard():
    """Let SIGINT raise here and end child processes, which ignore it if the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def server():
    """A real PostgreSQL with pgvector."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed")
    # Not below pytest's folder, which only its user may enter: if that is root, PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        running = pgserver.get_server(Path(folder) / "data")
        yield running
        running.cleanup()


@pytest.fixture(scope="session")
def tiny_exported_folder(tiny_tuned_folder, tmp_path_factory) -> Path:
    """The same folder with the graphs that `embtune export` writes."""
    from docsgpt_embtune.exporting.export import export

    folder = Path(shutil.copytree(tiny_tuned_folder, tmp_path_factory.mktemp("exported") / "tuned"))
    export(folder)
    return folder


@pytest.fixture
def model_of(tiny_base_folder, tmp_path):
    """A function that builds a random model of one of the families in `random_models`."""
    from tests.random_models import build_model

    return lambda kind: build_model(kind, tiny_base_folder, tmp_path)


def build_tiny_folder(folder: Path, *, seed: int, hidden_size: int = 32) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in TEXTS for word in text.lower().replace(".", " .").replace(";", " ;").split()})
    pieces = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *pieces, *(f"##{piece}" for piece in pieces)]
    parts = folder / "transformer"
    parts.mkdir()
    (parts / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
    BertTokenizerFast(str(parts / "vocab.txt"), model_max_length=64).save_pretrained(parts)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=64,
        initializer_range=0.5,  # wide enough that different texts lie far apart without any training
    )
    BertModel(config).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=64)
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()], device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"

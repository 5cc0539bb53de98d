"""The doctor through DocsGPT's own store: here one that keeps to its interface, and a checkout that has no database."""

import subprocess
import sys

import numpy as np
import pytest

from application.vectorstore.base import BaseVectorStore
from docsgpt_embtune.deployment.doctor import examine_in_host
from docsgpt_embtune.deployment.host_source import HostSource, open_host_sources
from docsgpt_embtune.errors import DeploymentError

from .conftest import CHUNKS


class Hit:
    def __init__(self, text):
        self.page_content = text


class Store(BaseVectorStore):
    """A store of what was added, as DocsGPT's are: texts out, no vectors, a search by vector."""

    score_kind = "cosine_similarity"

    def __init__(self):
        self.texts, self.vectors = [], []

    def add_texts(self, texts, metadatas=None, *args, **kwargs):
        raise NotImplementedError

    def search(self, *args, **kwargs):
        raise NotImplementedError

    def add(self, model, texts):
        self.texts += texts
        self.vectors += list(model.embed(texts))
        return self

    def get_chunks(self):
        return [{"doc_id": row, "text": text, "metadata": {}} for row, text in enumerate(self.texts)]

    def scores(self, vector):
        return np.array(self.vectors) @ vector

    def search_with_scores(self, question, k=2, *args, query_vector=None, **kwargs):
        scores = self.scores(np.array(query_vector))
        return [(Hit(self.texts[row]), float(scores[row])) for row in np.argsort(-scores)[:k]]


class StoreByDistance(Store):
    score_kind = "l2_distance"

    def search_with_scores(self, *args, **kwargs):
        return [(hit, 2 - 2 * score) for hit, score in super().search_with_scores(*args, **kwargs)]


class MongoDBVectorStore(Store):
    """Scores as Atlas does."""

    def search_with_scores(self, *args, **kwargs):
        return [(hit, (1 + score) / 2) for hit, score in super().search_with_scores(*args, **kwargs)]


class StoreWithoutScores(Store):
    def search_with_scores(self, *args, **kwargs):
        return [(hit, None) for hit, _ in super().search_with_scores(*args, **kwargs)]


class Silent(Store):
    def get_chunks(self):
        return None


class Failing(Store):
    def get_chunks(self):
        raise ConnectionError("nobody listens on port 27017")


def examined(store, model):
    return [(finding.problem, finding.message) for finding in examine_in_host(HostSource(store, "mongodb s"), model)]


@pytest.mark.parametrize("kind", [Store, MongoDBVectorStore])
def test_lightly_tuned_model_is_another_model_however_a_store_scores(kind, tuned):
    store = kind().add(tuned, CHUNKS)
    own, cosine = np.array(store.vectors), 0.9985
    aside = np.random.default_rng(0).standard_normal(own.shape)
    aside -= (aside * own).sum(axis=1, keepdims=True) * own
    aside *= np.sqrt(1 - cosine**2) / np.linalg.norm(aside, axis=1, keepdims=True)
    store.vectors = list(cosine * own + aside)
    assert [problem for problem, _ in examined(store, tuned)] == ["vectors"]


@pytest.mark.parametrize("store", [Store, StoreByDistance, MongoDBVectorStore])
def test_models_own_vectors_raise_no_alarm_and_others_do(store, stock, tuned):
    assert examined(store().add(tuned, CHUNKS), tuned) == []
    ((problem, message),) = examined(store().add(stock, CHUNKS), tuned)
    assert (problem, message.split(":")[0]) == ("vectors", "none of 62 sampled vectors was made by this model")
    ((problem, message),) = examined(store().add(tuned, CHUNKS[:50]).add(stock, CHUNKS[50:60]), tuned)
    assert problem == "mixed"
    assert "sampled vectors were made by another model (first: chunk '5" in message


def test_chunks_that_begin_alike_and_have_one_vector_raise_no_alarm(tuned):
    alike = [f"logs are rotated every night {'and kept ' * 40}{number}" for number in range(5)]
    assert [problem for problem, _ in examined(Store().add(tuned, alike), tuned)] == ["truncated"]


def test_store_without_scores_is_judged_by_what_comes_first(stock, tuned):
    assert examined(StoreWithoutScores().add(tuned, CHUNKS[:60]), tuned) == []
    assert examined(StoreWithoutScores().add(stock, CHUNKS[:60]), tuned) != []


@pytest.mark.parametrize(
    ("store", "problem", "message"),
    [
        (Store, "empty", "no chunk is in it"),
        (Silent, "unreadable", "hands out none of its chunks"),
        (Failing, "unreadable", "get_chunks fails: ConnectionError('nobody listens on port 27017')"),
    ],
)
def test_source_that_cannot_be_read_is_named(store, problem, message, tuned):
    ((found, said),) = examined(store(), tuned)
    assert found == problem
    assert message in said


def test_folder_that_holds_no_docsgpt_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match="no DocsGPT in it"):
        open_host_sources(tmp_path, ["s"])


CREATOR = """
class VectorCreator:
    def create_vectorstore(kind, source_id, key):
        raise RuntimeError(f"{kind} for {source_id} with {key}")
"""
SETTINGS = "class settings:\n    VECTOR_STORE, EMBEDDINGS_KEY = 'mongodb', None\n"


BAD_SETTINGS = """
from pydantic import BaseModel
class Settings(BaseModel):
    VECTOR_STORE: str
    EMBEDDINGS_KEY: int
settings = Settings(VECTOR_STORE="faiss", EMBEDDINGS_KEY="sk-very-secret")
"""


def doctor_in(checkout, settings, model):
    for path, text in {"core/settings.py": settings, "vectorstore/vector_creator.py": CREATOR}.items():
        (checkout / "application" / path).parent.mkdir(parents=True)
        (checkout / "application" / path).write_text(text)
    words = ("doctor", "--model", str(model.folder), "--docsgpt", str(checkout), "--source", "handbook")
    command = [sys.executable, "-W", "ignore", "-m", "docsgpt_embtune", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("settings", "said"), [(BAD_SETTINGS, "ValidationError: EMBEDDINGS_KEY"), ("raise ValueError('sk-')", "ValueError")]
)
def test_settings_that_cannot_be_read_are_named_without_their_values(tmp_path, tuned, settings, said):
    finished = doctor_in(tmp_path, settings, tuned)
    assert finished.returncode == 2
    assert f"its settings cannot be read ({said}); run this where DocsGPT runs" in finished.stderr
    assert "sk-" not in finished.stderr
    assert "Traceback" not in finished.stderr


def test_checkout_is_asked_for_the_store_that_its_settings_name(tmp_path, tuned):
    finished = doctor_in(tmp_path, SETTINGS, tuned)
    assert finished.returncode == 2
    assert "DocsGPT cannot open its mongodb: RuntimeError('mongodb for handbook with None')" in finished.stderr

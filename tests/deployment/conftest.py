"""Index folders as DocsGPT writes them, old and new."""

import contextlib
import json
import os
import pickle

import faiss
import numpy as np
import pytest

from docsgpt_embtune.deployment.deployed_model import load_deployed_model
from docsgpt_embtune.vectors import cosines

from ..conftest import TEXTS, build_tiny_folder

CHUNKS = [f"{text} Part {letter}." for letter in "abcdefghijkl" for text in TEXTS] + [TEXTS[0], TEXTS[0]]


@pytest.fixture(scope="session")
def stock(tiny_base_folder):
    return load_deployed_model(str(tiny_base_folder))


@pytest.fixture(scope="session")
def tuned(tiny_tuned_folder):
    return load_deployed_model(str(tiny_tuned_folder))


@pytest.fixture(scope="session")
def third(tmp_path_factory):
    return load_deployed_model(str(build_tiny_folder(tmp_path_factory.mktemp("third"), seed=5)))


@pytest.fixture
def index_folder(tmp_path, stock):
    return write_index_folder(tmp_path / "indexes" / "handbook", stock)


def write_index_folder(folder, model, texts=CHUNKS, *, sidecars=("json", "pkl")):
    """Write the three files in DocsGPT's own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatL2(model.dimension)
    index.add(model.embed(texts))
    faiss.write_index(index, str(folder / "index.faiss"))
    doc_ids = [f"chunk-{row}" for row in range(len(texts))]
    documents = {
        doc_id: {"page_content": text, "metadata": {"source": f"{doc_id}.md", "token_count": 9}}
        for doc_id, text in zip(doc_ids, texts, strict=True)
    }
    by_row = {str(row): doc_id for row, doc_id in enumerate(doc_ids)}
    if "json" in sidecars:
        content = {"version": 1, "documents": documents, "index_to_docstore_id": by_row}
        (folder / "index.json").write_text(json.dumps(content, ensure_ascii=False))
    if "pkl" in sidecars:
        (folder / "index.pkl").write_bytes(langchain_pickle(documents))
    return folder


def contents(folder):
    """Return the bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rewrite_vectors(folder, change):
    """Replace the vectors of index.faiss, and nothing beside it."""
    index = faiss.read_index(str(folder / "index.faiss"))
    vectors = change(index.reconstruct_n(0, index.ntotal))
    changed = faiss.IndexFlatL2(vectors.shape[1])
    changed.add(np.ascontiguousarray(vectors))
    faiss.write_index(changed, str(folder / "index.faiss"))


def same_vectors(stored, expected):
    """Tell whether they are the same model's: re-embedding may round to bf16."""
    stored = np.asarray(stored, dtype=np.float32)
    return stored.shape == expected.shape and cosines(stored, expected).min() > 0.999


def langchain_pickle(documents):
    """Pickle what LangChain does, with LangChain itself."""
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_core.documents import Document

    docstore = InMemoryDocstore({doc_id: Document(**document) for doc_id, document in documents.items()})
    return pickle.dumps((docstore, dict(enumerate(documents))))


def make_inverted(folder):
    """Write index.faiss anew as an IVF index of the same vectors."""
    vectors = faiss.read_index(str(folder / "index.faiss")).reconstruct_n()
    inverted = faiss.index_factory(vectors.shape[1], "IVF2,Flat")
    inverted.train(np.vstack([vectors, vectors]))
    inverted.add(vectors)
    faiss.write_index(inverted, str(folder / "index.faiss"))


def search(folder, model, text, k=1):
    """Search as DocsGPT does: rows by L2, texts through the sidecar."""
    index = faiss.read_index(str(folder / "index.faiss"))
    content = json.loads((folder / "index.json").read_text())
    _, rows = index.search(np.array([model.embeddings.embed_query(text)], dtype=np.float32), k)
    doc_ids = [content["index_to_docstore_id"][str(row)] for row in rows[0]]
    return [content["documents"][doc_id]["page_content"] for doc_id in doc_ids]


@contextlib.contextmanager
def as_nobody():
    """Give up root's rights, which are above those of any folder, and take them again."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)

"""DocsGPT's index folder of one source: index.faiss with the vectors, and a sidecar file with the chunks.

Since DocsGPT 0.19 the sidecar is index.json, and index.pkl is still written beside it; before, it was index.pkl alone.
A sidecar holds no vectors, only ids, texts, metadata and the chunk id of each row.
"""

import json
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import faiss
import numpy as np

from docsgpt_embtune.deployment.stores import stored_text
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.files import sha256_of
from docsgpt_embtune.vectors import Vectors

INDEX = "index.faiss"
JSON_SIDECAR = "index.json"
PICKLE_SIDECAR = "index.pkl"
INDEX_FILES = (INDEX, JSON_SIDECAR, PICKLE_SIDECAR)
WORK = ".embtune"  # folder of re-embedding's own files; names of this package's other folders begin with it, too


@dataclass(frozen=True)
class Sidecar:
    """The chunks of an index.

    Attributes:
        rows: Chunk id of each index row, in row order.
        texts: Chunk id -> text.
        metadata: Chunk id -> metadata.
    """

    rows: tuple[str, ...]
    texts: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, Any]]

    @property
    def row_texts(self) -> list[str]:
        """The text of each index row, in row order."""
        return [self.texts[doc_id] for doc_id in self.rows]


def find_index_folders(path: Path, *, may_be_none: bool = False) -> list[Path]:
    """Find all index folders at or below a path, such as DocsGPT's `indexes`; links are followed.

    Raises:
        DeploymentError: If there is none, unless `may_be_none`, or a folder cannot be read.
    """
    folders = [folder for folder, files in _folders_below(path) if _has_index(files)]
    if not folders and not may_be_none:
        raise DeploymentError(f"{path}: no index in it (no {INDEX}); give DocsGPT's indexes folder, or one source's")
    return sorted(folders)


def find_remains(path: Path) -> list[Path]:
    """Find the folders of deleted sources: DocsGPT deletes its three files, but not `.embtune` beside them.

    Args:
        path: As in `find_index_folders`.

    Raises:
        DeploymentError: If a folder cannot be read.
    """
    return sorted(folder for folder, files in _folders_below(path) if not _has_index(files) and _keeps_work(folder))


def delete_remains(folder: Path) -> None:
    """Delete `.embtune` of a deleted source, and the source's folder if it is empty then; safe to repeat.

    Args:
        folder: A folder from `find_remains`. If a source was uploaded there since, nothing is deleted.

    Raises:
        DeploymentError: If the folder cannot be read, or `.embtune` cannot be deleted.
    """
    try:
        if _has_index(os.listdir(folder)):
            return
        shutil.rmtree(folder / WORK)
    except FileNotFoundError:  # somebody else deleted it
        pass
    except OSError as error:
        raise DeploymentError(
            f"{folder / WORK}: cannot be deleted ({error.strerror}); run as a user who may do so"
        ) from error
    with suppress(OSError):  # the folder is not empty, a link, or another user's
        folder.rmdir()


def _has_index(files: Iterable[str]) -> bool:
    return not set(INDEX_FILES).isdisjoint(files)


def _keeps_work(folder: Path) -> bool:
    return (folder / WORK).is_dir() and not (folder / WORK).is_symlink()


def _folders_below(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder except this package's own, once however many links lead to it, with its file names."""

    def unreadable(error: OSError) -> NoReturn:
        raise DeploymentError(f"{error.filename}: cannot be read ({error.strerror})") from error

    seen: set[Path] = set()
    for name, folders, files in os.walk(path, onerror=unreadable, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders[:] = sorted(below for below in folders if not below.startswith(WORK))
        yield folder, files


def read_index(folder: Path) -> Any:
    """Read index.faiss.

    Raises:
        DeploymentError: If the file is missing, damaged or unreadable, or the index cannot return a row's vector.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DeploymentError(f"{path}: missing; restore it from a backup, or upload the source again")
    with _open(path):  # faiss raises the same error for an unreadable file as for a damaged one
        pass
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise DeploymentError(
            f"{path}: damaged ({str(error)[-80:]}); restore it from a backup, or upload the source again"
        ) from error
    try:
        index_vectors(index, range(min(1, index.ntotal)))
    except RuntimeError as error:
        raise DeploymentError(
            f"{path}: {type(index).__name__} does not tell the vector of a row; DocsGPT makes IndexFlatL2: upload the "
            "source again"
        ) from error
    return index


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DeploymentError(
            f"{path}: cannot be read ({error.strerror}); run as a user who may read it, or see to its rights"
        ) from error


def index_vectors(index: Any, rows: Any = None) -> Vectors:
    """Read all vectors of an index, or those of some rows: (N, D)."""
    if inverted := faiss.try_extract_index_ivf(index):
        inverted.make_direct_map()  # required to find a vector by its row
    if rows is None:
        return np.asarray(index.reconstruct_n(0, index.ntotal), dtype=np.float32).reshape(index.ntotal, index.d)
    return np.array([index.reconstruct(int(row)) for row in rows], dtype=np.float32).reshape(len(rows), index.d)


def read_sidecar(folder: Path) -> Sidecar:
    """Read the chunks as DocsGPT would: from index.json if it exists, else from index.pkl.

    The last ones read are kept, since every step asks for them, and are read again once a file has other content.

    Raises:
        DeploymentError: If both are missing, one is damaged or unreadable, they disagree, a row has no text, or what is
            stored as one is none.
    """
    return _read_sidecar(folder, *(_digest(folder / name) for name in (JSON_SIDECAR, PICKLE_SIDECAR)))


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with _open(path):  # its error says what to do
        return sha256_of(path)


@lru_cache(maxsize=1)
def _read_sidecar(folder: Path, *_: str | None) -> Sidecar:
    from_json = _read_json_sidecar(folder / JSON_SIDECAR)
    from_pickle = _read_pickle_sidecar(folder / PICKLE_SIDECAR)
    sidecar = from_json or from_pickle
    if sidecar is None:
        raise DeploymentError(f"{folder}: neither {JSON_SIDECAR} nor {PICKLE_SIDECAR}; restore one from a backup")
    if from_json and from_pickle and (from_json.rows, from_json.row_texts) != (from_pickle.rows, from_pickle.row_texts):
        raise DeploymentError(
            f"{folder}: {JSON_SIDECAR} and {PICKLE_SIDECAR} hold different chunks ({len(from_json.rows)} and "
            f"{len(from_pickle.rows)}), one of them is stale; DocsGPT reads {JSON_SIDECAR}: if the index was uploaded "
            f"since, delete {JSON_SIDECAR}, else delete {PICKLE_SIDECAR}"
        )
    return sidecar


def _read_json_sidecar(path: Path) -> Sidecar | None:
    if not path.is_file():
        return None
    try:
        with _open(path) as file:
            content = json.load(file)
        documents = content["documents"]
        texts = {doc_id: document["page_content"] for doc_id, document in documents.items()}
        metadata = {doc_id: document["metadata"] or {} for doc_id, document in documents.items()}
        by_row = {int(row): doc_id for row, doc_id in content["index_to_docstore_id"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeploymentError(f"{path}: damaged ({type(error).__name__}: {error}); restore it from a backup") from error
    return _sidecar(path, by_row, texts, metadata)


def _read_pickle_sidecar(path: Path) -> Sidecar | None:
    if not path.is_file():
        return None
    try:
        with _open(path) as file:
            docstore, by_row = _SidecarUnpickler(file).load()
        documents = {doc_id: _fields(document) for doc_id, document in _fields(docstore)["_dict"].items()}
        texts = {doc_id: fields["page_content"] for doc_id, fields in documents.items()}
        metadata = {doc_id: fields.get("metadata") or {} for doc_id, fields in documents.items()}
        by_row = {int(row): doc_id for row, doc_id in by_row.items()}
    except DeploymentError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DeploymentError(f"{path}: damaged ({type(error).__name__}: {error}); restore it from a backup") from error
    return _sidecar(path, by_row, texts, metadata)


def _sidecar(path: Path, by_row: dict[int, str], texts: dict[str, object], metadata: dict[str, Any]) -> Sidecar:
    if sorted(by_row) != list(range(len(by_row))):
        raise DeploymentError(f"{path}: its rows are not 0 to {len(by_row) - 1}; restore it from a backup")
    rows = tuple(by_row[row] for row in range(len(by_row)))
    textless = [doc_id for doc_id in rows if doc_id not in texts]
    if textless:
        raise DeploymentError(
            f"{path}: {len(textless)} of {len(rows)} rows have no text (first: {textless[0]!r}); "
            "upload the source again"
        )
    return Sidecar(rows, {doc_id: stored_text(text, str(path), doc_id) for doc_id, text in texts.items()}, metadata)


class _Pickled:
    """A stand-in for LangChain's docstore and documents that only keeps the pickled state."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _SidecarUnpickler(pickle.Unpickler):
    """An unpickler that accepts only LangChain's two classes, so that no pickle runs code here."""

    _ALLOWED = frozenset(
        (module, name)
        for name, modules in {
            "InMemoryDocstore": (
                "langchain_community.docstore.in_memory",
                "langchain.docstore.in_memory",
            ),
            "Document": (
                "langchain_core.documents.base",
                "langchain_core.documents",
                "langchain.schema.document",
                "langchain.docstore.document",
                "langchain.schema",
            ),
        }.items()
        for module in modules
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return _Pickled
        raise DeploymentError(f"{PICKLE_SIDECAR} names {module}.{name}, which no index of DocsGPT does; do not use it")


def _fields(pickled: Any) -> dict[str, Any]:
    # A plain object's state is its dictionary; a pydantic model's holds that dictionary under "__dict__".
    fields: dict[str, Any] = pickled.state.get("__dict__", pickled.state)
    return fields

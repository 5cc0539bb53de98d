"""DocsGPT's collections in Qdrant, with the payload `page_content` and `metadata`, and one unnamed vector."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from docsgpt_embtune.deployment.collection_store import DocId, Entry
from docsgpt_embtune.deployment.stores import NOT_OPENED, as_deployment_error, stored_text
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.vectors import Vectors

_PAGE = 1000  # points read at a time


@contextmanager
def open_qdrant(location: str, api_key: str | None = None) -> Iterator["QdrantCollections"]:
    """Open a Qdrant database for the duration of the context.

    Args:
        location: URL of a server (QDRANT_URL), or folder of an embedded database (QDRANT_PATH).
        api_key: QDRANT_API_KEY.

    Raises:
        DeploymentError: If the client is not installed, the server cannot be reached, the folder has no database, or
            another process has it open.
    """
    try:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ApiException
    except ImportError as error:
        raise DeploymentError("Qdrant needs its client; run: pip install 'docsgpt-embtune[qdrant]'") from error
    errors: tuple[type[Exception], ...] = (ApiException, ConnectionError, RuntimeError, ValueError, sqlite3.Error)
    with suppress(ImportError):  # the client has exceptions of its own since 1.14
        from qdrant_client.common.client_exceptions import QdrantException

        errors += (QdrantException,)
    is_url = "://" in location
    if not is_url and not (Path(location) / "meta.json").is_file():  # the client would create a missing database
        raise DeploymentError(
            f"Qdrant {without_credentials(location)}: no folder of a Qdrant (no meta.json in it); give the server's "
            "http:// URL, or QDRANT_PATH, from the folder that DocsGPT runs in"
        )
    where: dict[str, Any] = {"url": location, "api_key": api_key} if is_url else {"path": location}
    with as_deployment_error("Qdrant", errors, NOT_OPENED, address=location):
        client = QdrantClient(**where)
        client.get_collections()
    try:
        yield QdrantCollections(client, errors)
    finally:
        client.close()


class QdrantCollections:
    """The collections of one Qdrant database.

    Args:
        client: A `QdrantClient`.
        errors: Exception classes of the client.
    """

    label = "Qdrant"
    setting = "QDRANT_COLLECTION_NAME"

    def __init__(self, client: Any, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self.errors = errors

    def names(self) -> list[str]:
        """List the names of all collections."""
        return sorted(description.name for description in self._client.get_collections().collections)

    def exists(self, name: str) -> bool:
        """Tell whether there is a collection, or an alias, of this name."""
        return bool(self._client.collection_exists(name)) or name in self._aliases()

    def has_alias(self, name: str) -> bool:
        """Tell whether an alias leads to this collection."""
        return name in self._aliases().values()

    def width(self, name: str) -> int:
        """Return the width of the unnamed vector."""
        return int(self._vector_settings(name).size)

    def entries(self, name: str) -> Iterator[Entry]:
        """Scroll through all payloads."""
        offset = None
        while True:
            records, offset = self._client.scroll(name, limit=_PAGE, offset=offset, with_vectors=False)
            yield from (_entry(name, record) for record in records)
            if offset is None:
                return

    def fetch(self, name: str, doc_ids: Sequence[DocId]) -> list[Entry]:
        """Retrieve payloads by id."""
        records = self._client.retrieve(name, ids=list(doc_ids), with_payload=True)
        by_id = {record.id: _entry(name, record) for record in records}
        return [by_id[doc_id] for doc_id in doc_ids if doc_id in by_id]

    def vectors(self, name: str, doc_ids: Sequence[DocId]) -> Vectors:
        """Retrieve vectors by id; Qdrant normalises them to unit norm if the distance is cosine."""
        records = self._client.retrieve(name, ids=list(doc_ids), with_payload=False, with_vectors=True)
        by_id = {record.id: _unnamed(record.vector) for record in records}
        return np.array([by_id[doc_id] for doc_id in doc_ids], dtype=np.float32).reshape(len(doc_ids), self.width(name))

    def create(self, name: str, like: str, width: int) -> None:
        """Create a collection with the same distance, storage and search settings, and payload indexes.

        Raises:
            DeploymentError: If the other collection has sparse vectors, which DocsGPT does not make.
        """
        from qdrant_client.models import HnswConfigDiff, OptimizersConfigDiff, WalConfigDiff

        info = self._client.get_collection(like)
        config, parameters = info.config, info.config.params
        if parameters.sparse_vectors:
            names = ", ".join(sorted(parameters.sparse_vectors))
            raise DeploymentError(
                f"Qdrant {like}: has sparse vectors, {names}, which DocsGPT does not make and the new collection would "
                f"lack; copy the chunks into a collection without them, and name that in {self.setting}"
            )
        if not self._client.collection_exists(name):
            self._client.create_collection(
                name,
                vectors_config=self._vector_settings(like).model_copy(update={"size": width}),
                shard_number=parameters.shard_number,
                replication_factor=parameters.replication_factor,
                write_consistency_factor=parameters.write_consistency_factor,
                on_disk_payload=parameters.on_disk_payload,
                hnsw_config=_as(HnswConfigDiff, config.hnsw_config),
                optimizers_config=_as(OptimizersConfigDiff, config.optimizer_config),
                wal_config=_as(WalConfigDiff, config.wal_config),
                quantization_config=config.quantization_config,
            )
        made = self._client.get_collection(name).payload_schema
        for field, index in info.payload_schema.items():
            if field not in made:
                self._client.create_payload_index(name, field_name=field, field_schema=index.params or index.data_type)

    def put(self, name: str, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Upsert points."""
        from qdrant_client.models import PointStruct

        points = [
            PointStruct(id=entry.doc_id, vector=vector.tolist(), payload=entry.content)
            for entry, vector in zip(entries, vectors, strict=True)
        ]
        self._client.upsert(name, points=points, wait=True)

    def remove(self, name: str, doc_ids: Sequence[DocId]) -> None:
        """Delete points by id."""
        from qdrant_client.models import PointIdsList

        self._client.delete(name, points_selector=PointIdsList(points=list(doc_ids)), wait=True)

    def nearest(self, name: str, vector: Sequence[float]) -> DocId:
        """Search as DocsGPT does."""
        doc_id: DocId = self._client.query_points(name, query=list(vector), limit=1).points[0].id
        return doc_id

    def drop(self, name: str) -> None:
        """Delete a collection."""
        self._client.delete_collection(name)

    def _aliases(self) -> dict[str, str]:
        """Return the name of the collection that each alias leads to."""
        return {alias.alias_name: alias.collection_name for alias in self._client.get_aliases().aliases}

    def _vector_settings(self, name: str) -> Any:
        settings = self._client.get_collection(name).config.params.vectors
        if not hasattr(settings, "size"):
            raise DeploymentError(f"Qdrant {name}: has named vectors, so it is not DocsGPT's; check {self.setting}")
        return settings


def _as(kind: Any, settings: Any) -> Any:
    """Give settings that Qdrant returns the type in which it takes them; None if it returned none."""
    return kind(**settings.model_dump(include=set(kind.model_fields))) if settings else None


def _unnamed(vector: Any) -> Any:
    return vector[""] if isinstance(vector, dict) else vector  # a dictionary where the point has a sparse vector, too


def _entry(name: str, record: Any) -> Entry:
    payload = record.payload or {}
    metadata = payload.get("metadata")
    text = stored_text(payload.get("page_content"), f"Qdrant {name}", record.id)
    return Entry(record.id, text, payload, metadata if isinstance(metadata, dict) else {})

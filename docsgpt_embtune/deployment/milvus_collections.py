"""DocsGPT's collections in Milvus, with the fields `id`, `vector`, `text`, `source_id` and `metadata`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from docsgpt_embtune.deployment.collection_store import DocId, Entry
from docsgpt_embtune.deployment.stores import NOT_OPENED, as_deployment_error, stored_text
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.vectors import Vectors

_PAGE = 1000  # rows read at a time
# An iterator of a server before 2.4 misses rows of the last moment, whatever consistency it is asked for.
_READINGS = 3
_VECTOR = "vector"
_BUILD_PARAMETERS = ("M", "efConstruction", "nlist", "m", "nbits")  # of HNSW and IVF indexes
# Milvus Lite closes the connection of a client that pings it every ten seconds while a block of chunks is embedded.
NO_KEEPALIVE = {"grpc.keepalive_time_ms": 2**31 - 1}
_STRONG = {"consistency_level": "Strong"}  # reads must see what was just written


@contextmanager
def open_milvus(uri: str, token: str | None = None) -> Iterator["MilvusCollections"]:
    """Open a Milvus database for the duration of the context.

    Args:
        uri: MILVUS_URI: a server's URI, or the file of a Milvus Lite.
        token: MILVUS_TOKEN.

    Raises:
        DeploymentError: If the client is not installed, the server cannot be reached, the file does not exist, or
            another process has it open.
    """
    try:
        with _without_environment("MILVUS_URI"):
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise DeploymentError("Milvus needs its client; run: pip install pymilvus milvus-lite") from error
    is_lite = "://" not in uri
    if is_lite and not os.path.exists(uri):
        raise DeploymentError(f"{uri}: no such Milvus file; give MILVUS_URI, from the folder that DocsGPT runs in")
    with as_deployment_error("Milvus", (MilvusException,), NOT_OPENED, address=uri):
        client = MilvusClient(uri=uri, token=token or "", grpc_options=NO_KEEPALIVE if is_lite else {})
    try:
        yield MilvusCollections(client, is_lite, (MilvusException,))
    finally:
        client.close()


@contextmanager
def _without_environment(name: str) -> Iterator[None]:
    # pymilvus reads MILVUS_URI on import and rejects a file name, which DocsGPT allows there.
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


class MilvusCollections:
    """The collections of one Milvus database.

    Args:
        client: A `MilvusClient`.
        is_lite: Whether the database is a Milvus Lite instead of a server.
        errors: Exception classes of the client.
    """

    label = "Milvus"
    setting = "MILVUS_COLLECTION_NAME"

    def __init__(self, client: Any, is_lite: bool, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._is_lite = is_lite
        self.errors = errors

    def names(self) -> list[str]:
        """List the names of all collections."""
        return sorted(self._client.list_collections())

    def exists(self, name: str) -> bool:
        """Tell whether there is a collection, or an alias, of this name; one without an index does not count.

        A server makes a collection and its index in two steps. One that a killed run left between these is empty.
        """
        return bool(self._client.has_collection(name) and self._client.list_indexes(name, _VECTOR))

    def has_alias(self, name: str) -> bool:
        """Tell whether an alias leads to this collection."""
        return bool(self._client.list_aliases(name)["aliases"])

    def width(self, name: str) -> int:
        """Return the declared width of the vector field."""
        fields = self._client.describe_collection(name)["fields"]
        return next(int(field["params"]["dim"]) for field in fields if field["name"] == _VECTOR)

    def entries(self, name: str) -> Iterator[Entry]:
        """Read all rows.

        Raises:
            DeploymentError: If the rows that were read are not as many as Milvus counts.
        """
        self._client.load_collection(name)  # in Milvus Lite a collection stays loaded only within one process
        doc_ids: set[DocId] = set()
        counted = -1
        for _ in range(_READINGS):
            for row in self._rows_of_lite(name) if self._is_lite else self._rows_of_server(name):
                if row["id"] not in doc_ids:
                    doc_ids.add(row["id"])
                    yield _entry(name, row)
            counted = self._client.query(name, filter="", output_fields=["count(*)"], **_STRONG)[0]["count(*)"]
            if len(doc_ids) == counted:
                return
        raise DeploymentError(
            f"Milvus {name}: {len(doc_ids)} rows were read and {counted} counted; stop what writes into it, and run "
            "the same command again"
        )

    def fetch(self, name: str, doc_ids: Sequence[DocId]) -> list[Entry]:
        """Read rows by id."""
        by_id = self._rows(name, doc_ids, self._fields(name))
        return [_entry(name, by_id[doc_id]) for doc_id in doc_ids if doc_id in by_id]

    def vectors(self, name: str, doc_ids: Sequence[DocId]) -> Vectors:
        """Read vectors by id."""
        by_id = self._rows(name, doc_ids, ["id", _VECTOR])
        rows = [by_id[doc_id][_VECTOR] for doc_id in doc_ids]
        return np.array(rows, dtype=np.float32).reshape(len(doc_ids), self.width(name))

    def create(self, name: str, like: str, width: int) -> None:
        """Create a collection with the same fields, and the same kind of index on the vectors."""
        from pymilvus import CollectionSchema

        if self.exists(name):
            return
        if self._client.has_collection(name):
            self._client.drop_collection(name)
        description = self._client.describe_collection(like)
        for field in description["fields"]:
            if field["name"] == _VECTOR:
                field["params"] = {**field["params"], "dim": width}
        index = self._client.describe_index(like, _VECTOR)
        indexes = self._client.prepare_index_params()
        indexes.add_index(
            field_name=_VECTOR,
            index_type=index["index_type"],
            metric_type=index["metric_type"],
            params=build_parameters(index, width),
        )
        schema = CollectionSchema.construct_from_dict(description)
        self._client.create_collection(name, schema=schema, index_params=indexes)

    def put(self, name: str, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Upsert rows."""
        rows = [{**entry.content, _VECTOR: vector.tolist()} for entry, vector in zip(entries, vectors, strict=True)]
        self._client.upsert(name, data=rows)

    def remove(self, name: str, doc_ids: Sequence[DocId]) -> None:
        """Delete rows by id."""
        self._client.delete(name, ids=list(doc_ids))

    def nearest(self, name: str, vector: Sequence[float]) -> DocId:
        """Search as DocsGPT does."""
        self._client.load_collection(name)
        doc_id: DocId = self._client.search(name, data=[list(vector)], limit=1, **_STRONG)[0][0]["id"]
        return doc_id

    def drop(self, name: str) -> None:
        """Delete a collection."""
        self._client.drop_collection(name)

    def _fields(self, name: str) -> list[str]:
        description = self._client.describe_collection(name)
        fields = [field["name"] for field in description["fields"] if field["name"] != _VECTOR]
        return [*fields, "$meta"] if description.get("enable_dynamic_field") else fields

    def _rows_of_server(self, name: str) -> Iterator[dict[str, Any]]:
        pages = self._client.query_iterator(name, batch_size=_PAGE, output_fields=self._fields(name), **_STRONG)
        try:
            while page := pages.next():
                yield from page
        finally:
            pages.close()

    def _rows_of_lite(self, name: str) -> Iterator[dict[str, Any]]:
        # Milvus Lite's pages are not ordered by id, so an iterator over them repeats rows. A query there has no limit.
        yield from self._client.query(name, filter="", output_fields=self._fields(name))

    def _rows(self, name: str, doc_ids: Sequence[DocId], fields: list[str]) -> dict[DocId, dict[str, Any]]:
        if not doc_ids:
            return {}
        self._client.load_collection(name)
        return {row["id"]: row for row in self._client.get(name, ids=list(doc_ids), output_fields=fields, **_STRONG)}


def build_parameters(index: Mapping[str, Any], width: int) -> dict[str, int]:
    """Return the parameters that an index was built with, for another one over vectors of this width.

    Args:
        index: What Milvus says of the index. A Milvus Lite says no parameters.
        width: Width of the other's vectors.
    """
    said = {**index.get("params", {}), **index}
    parameters = {name: int(said[name]) for name in _BUILD_PARAMETERS if name in said}
    if width % parameters.get("m", 1):  # product quantisation cuts a vector into `m` equal parts
        del parameters["m"]
    return parameters


def _entry(name: str, row: dict[str, Any]) -> Entry:
    metadata = row.get("metadata")
    text = stored_text(row.get("text"), f"Milvus {name}", row["id"])
    return Entry(row["id"], text, dict(row), metadata if isinstance(metadata, dict) else {})

"""Re-embed a collection: fill a second one beside it, then make DocsGPT's `.env` name that one.

Qdrant and Milvus cannot exchange two collections in one step, since an alias cannot have the name of a collection. But
DocsGPT reads its collection's name from `.env`, as it does EMBEDDINGS_NAME. So one rename of that file switches both
the vectors and the model, and the previous collection stays as it is for a rollback. The second collection is also the
journal: each block is stored in it as soon as it is embedded.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from docsgpt_embtune.deployment import vector_journal
from docsgpt_embtune.deployment.deployed_model import DeployedModel, require_vectors_of
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.stores import (
    LATECOMER_ROUNDS,
    LATECOMERS_CHECKED,
    VERIFIED_CHUNKS,
    StoredSample,
    as_deployment_error,
    spread,
)
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.vectors import SAME_VECTOR, Vectors, cosines

DEFAULT_NAME = "docsgpt"  # the host's default collection
MARK = "_embtune_"
_FINGERPRINT_LETTERS = 12  # characters of a model's fingerprint in the name of its collection

DocId = int | str


@dataclass(frozen=True)
class Entry:
    """A stored chunk without its vector.

    Attributes:
        doc_id: The chunk's id.
        text: The text that is embedded.
        content: Everything stored with the vector, as the database returned it.
        metadata: DocsGPT's metadata of the chunk, including `source_id`; empty if another program stored the chunk.
    """

    doc_id: DocId
    text: str
    content: Any
    metadata: Mapping[str, Any]


class Collections(Protocol):
    """The operations on a database of collections that re-embedding needs.

    Attributes:
        label: The database's name in messages.
        setting: Name of the `.env` setting that names DocsGPT's collection.
        errors: Exception classes of the database's client.
    """

    label: str
    setting: str
    errors: tuple[type[Exception], ...]

    def names(self) -> list[str]:
        """List the names of all collections."""

    def exists(self, name: str) -> bool:
        """Tell whether a collection exists."""

    def has_alias(self, name: str) -> bool:
        """Tell whether a collection is reached by another name, too."""

    def width(self, name: str) -> int:
        """Return the width of a collection's vectors."""

    def entries(self, name: str) -> Iterator[Entry]:
        """Read all entries of a collection."""

    def fetch(self, name: str, doc_ids: Sequence[DocId]) -> list[Entry]:
        """Read entries by id, in the order given; missing ids are left out."""

    def vectors(self, name: str, doc_ids: Sequence[DocId]) -> Vectors:
        """Read vectors by id: (N, D), in the order given; every id must exist."""

    def create(self, name: str, like: str, width: int) -> None:
        """Create an empty collection with the settings of another, for vectors of this width.

        If it exists, only what a killed run left unfinished of it is done.
        """

    def put(self, name: str, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Store entries with their vectors, replacing entries with the same ids."""

    def remove(self, name: str, doc_ids: Sequence[DocId]) -> None:
        """Delete some entries."""

    def nearest(self, name: str, vector: Sequence[float]) -> DocId:
        """Return the id of the entry that a search for a vector finds first."""

    def drop(self, name: str) -> None:
        """Delete a collection."""


class CollectionStore:
    """DocsGPT's collection, which holds the chunks of all sources.

    Args:
        collections: The database.
        environment: The host's `.env`, which names the collection.

    Raises:
        DeploymentError: If the database has no such collection.
    """

    def __init__(self, collections: Collections, environment: EnvironmentFile) -> None:
        self._collections = collections
        self._environment = environment
        self._name = environment.get(self.setting) or DEFAULT_NAME
        previous = environment.get_replaced(self.setting, DEFAULT_NAME)
        self._previous = previous if previous != self._name else None  # equal after an interrupted rollback
        with self._as_deployment_error():
            if not collections.exists(self._name):
                raise DeploymentError(
                    f"{collections.label} has no collection {self._name!r}, which {environment.path} names in "
                    f"{self.setting} (DocsGPT's default is {DEFAULT_NAME!r}); give the .env that DocsGPT runs on"
                )

    @property
    def label(self) -> str:
        """The collection's name in messages."""
        return f"{self._collections.label} {self._name}"

    @property
    def setting(self) -> str:
        """Name of the `.env` setting that names the collection."""
        return self._collections.setting

    def texts(self) -> list[str]:
        """Return the text of every entry."""
        with self._as_deployment_error():
            return [entry.text for entry in self._collections.entries(self._name)]

    def width(self) -> int:
        """Return the declared width of the vectors."""
        with self._as_deployment_error():
            return self._collections.width(self._name)

    def sample(self, size: int) -> StoredSample:
        """Return entries spread over the ids."""
        return self._sample(self._name, size)

    def _sample(self, name: str, size: int) -> StoredSample:
        with self._as_deployment_error():
            doc_ids = self._some_ids(name, size)
            entries = self._collections.fetch(name, doc_ids)
            vectors = self._collections.vectors(name, [entry.doc_id for entry in entries])
        return StoredSample([str(entry.doc_id) for entry in entries], [entry.text for entry in entries], vectors)

    def is_on(self, model: DeployedModel) -> bool:
        """Tell whether `.env` names the collection built with this model, and no chunk checked is another model's."""
        with self._as_deployment_error():
            return self._is_target(model) and not self._has_foreign_latecomers(model)

    def require_switchable(self, model: DeployedModel) -> None:
        """Check that every chunk has a text; other obstacles show when the second collection is made."""
        self.texts()

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the distinct texts that the second collection lacks, or once it is in force, those added since."""
        with self._as_deployment_error():
            if self._is_target(model):
                return sorted({entry.text for entry in self._collections.fetch(self._name, self._latecomers())})
            built = self._ids(self._target(model))
            return sorted({entry.text for entry in self._collections.entries(self._name) if entry.doc_id not in built})

    def bytes_needed(self, model: DeployedModel) -> int:
        """Count the new vectors, and a second copy of each text."""
        return sum(4 * model.dimension + len(text.encode()) for text in self.texts())

    def build(self, model: DeployedModel) -> None:
        """Fill the second collection block by block, longest texts first."""
        with self._as_deployment_error():
            target = self._target(model)
            if self._is_target(model):
                self._embed(self._latecomers(), target, model)
                return
            self._collections.create(target, like=self._name, width=model.dimension)
            self._bring_up_to_date(target, model)

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return the setting that names the second collection, which puts it in force."""
        return {self.setting: self._target(model)}

    def prepare(self, model: DeployedModel) -> None:
        """Add the entries that came in meanwhile to the second collection, and verify it."""
        if self._is_target(model):
            return
        target = self._target(model)
        with self._as_deployment_error():
            for _ in range(LATECOMER_ROUNDS):
                if not self._bring_up_to_date(target, model):
                    self._verify(target, model)
                    return
        raise DeploymentError(
            f"{self.label}: chunks keep coming in while it is swapped; stop DocsGPT's worker and run the command again"
        )

    def swap(self, model: DeployedModel) -> None:
        """Add the entries that came in since `prepare`; the switch of `.env` then puts the collection in force."""
        if not self._is_target(model):
            with self._as_deployment_error():
                self._bring_up_to_date(self._target(model), model)

    def can_roll_back(self) -> bool:
        """Tell whether `.env` was switched to a collection built here, and the previous one has the same chunks."""
        if self._previous is None or MARK not in self._name:
            return False
        with self._as_deployment_error():
            if self._ids(self._name) != self._ids(self._previous):
                raise DeploymentError(
                    f"{self.label}: chunks were added or removed since it was re-embedded, or the collection "
                    f"{self._previous!r} is gone; embed them all with the old model instead: "
                    "embtune reembed --model OLD_MODEL"
                )
        return True

    def sample_before(self, size: int) -> StoredSample | None:
        """Return entries of the previous collection, which `.env` named before the switch."""
        with self._as_deployment_error():
            if self._previous is None or not self._collections.exists(self._previous):
                return None
        return self._sample(self._previous, size)

    def fingerprint_before(self) -> str | None:
        """Return the beginning of the fingerprint, from the previous collection's name; None if that has none."""
        _, mark, fingerprint = (self._previous or "").partition(MARK)
        return fingerprint if mark else None

    def roll_back(self) -> None:
        """Delete the second collection, which `.env` must no longer name; the first was never touched."""
        if self._environment.get(self.setting) == self._name:
            raise DeploymentError(f"{self.label}: {self._environment.path} names it still; give that .env, too")
        with self._as_deployment_error():
            self._collections.drop(self._name)

    def kept(self) -> str:
        """Name the collections from before each switch; empty if there is none."""
        return "; ".join(f"collection {name}" for name in self._replaced())

    def unfinished(self) -> str:
        """Name the collections that runs may have left which did not finish; empty if there is none."""
        return "; ".join(f"collection {name}" for name in self._unfinished())

    def _replaced(self) -> list[str]:
        """List the collections that `.env` named before; none unless it names one that was built here."""
        if MARK not in self._name:
            return []
        earlier = self._environment.get_earlier(self.setting, DEFAULT_NAME)
        on_record = [*earlier, self._previous] if self._previous else earlier
        with self._as_deployment_error():
            return [name for name in dict.fromkeys(on_record) if name != self._name and self._collections.exists(name)]

    def _unfinished(self) -> list[str]:
        """List the collections built here that `.env` never named, by all that is on record."""
        replaced = self._replaced()
        with self._as_deployment_error():
            return [
                name
                for name in self._collections.names()
                if re.fullmatch(f"{re.escape(self._root)}{MARK}[0-9a-f]{{{_FINGERPRINT_LETTERS}}}", name)
                and name not in (self._name, *replaced)
                and not self._collections.has_alias(name)
            ]

    def replaces_kept(self, model: DeployedModel) -> bool:
        """Tell that it does not: every collection stays until `forget`."""
        return False

    def require_forgettable(self) -> None:
        """Check nothing: whether the database allows deleting a collection shows only by doing it."""

    def forget(self) -> None:
        """Delete the collections that `kept` names."""
        for name in self._replaced():
            with self._as_deployment_error():
                self._collections.drop(name)

    @property
    def _root(self) -> str:
        """Name of the host's own collection."""
        return self._name.split(MARK)[0]

    def _target(self, model: DeployedModel) -> str:
        return f"{self._root}{MARK}{model.fingerprint[:_FINGERPRINT_LETTERS]}"

    def _is_target(self, model: DeployedModel) -> bool:
        return self._name == self._target(model)

    def _has_foreign_latecomers(self, model: DeployedModel) -> bool:
        late = self._latecomers()
        sampled = set(self._some_ids(self._name, LATECOMERS_CHECKED)) if late else set()
        sampled |= {late[position] for position in spread(len(late), LATECOMERS_CHECKED)}
        entries = self._collections.fetch(self._name, [doc_id for doc_id in late if doc_id in sampled])
        if not entries:
            return False
        stored = self._collections.vectors(self._name, [entry.doc_id for entry in entries])
        return not model.made([entry.text for entry in entries], stored).all()

    def _latecomers(self) -> list[DocId]:
        """List the ids that the previous collection lacks; none if that is gone, since all would seem new."""
        if self._previous is None or not self._collections.exists(self._previous):
            return []
        return sorted(self._ids(self._name) - self._ids(self._previous), key=str)

    def _ids(self, name: str) -> set[DocId]:
        if not self._collections.exists(name):
            return set()
        return {entry.doc_id for entry in self._collections.entries(name)}

    def _some_ids(self, name: str, size: int) -> list[DocId]:
        doc_ids = sorted(self._ids(name), key=str)
        return [doc_ids[position] for position in spread(len(doc_ids), size)]

    def _bring_up_to_date(self, target: str, model: DeployedModel) -> int:
        """Make the second collection hold exactly the entries of the first; return how many were missing or extra.

        Only ids are compared, since DocsGPT stores an edited chunk under a new id.
        """
        lengths = {entry.doc_id: len(entry.text) for entry in self._collections.entries(self._name)}
        built = self._ids(target)
        extra = sorted(built - lengths.keys(), key=str)
        missing = sorted(lengths.keys() - built, key=lambda doc_id: (-lengths[doc_id], str(doc_id)))
        if extra:
            self._collections.remove(target, extra)
        self._embed(missing, target, model)
        return len(missing) + len(extra)

    def _embed(self, doc_ids: Sequence[DocId], target: str, model: DeployedModel) -> None:
        with Bar(total=len(doc_ids), desc=f"embedding {self._name}", unit="chunk") as progress:
            for start in range(0, len(doc_ids), vector_journal.BLOCK):
                block = self._collections.fetch(self._name, doc_ids[start : start + vector_journal.BLOCK])
                if block:
                    self._collections.put(target, block, model.embed_many([entry.text for entry in block]))
                progress.update(len(block))

    def _verify(self, target: str, model: DeployedModel) -> None:
        doc_ids = self._some_ids(target, VERIFIED_CHUNKS)
        entries = self._collections.fetch(target, doc_ids)
        if entries != self._collections.fetch(self._name, doc_ids):
            raise DeploymentError(f"{self.label}: {target!r} has other texts or metadata; delete it and run again")
        if not entries:
            return
        stored = self._collections.vectors(target, doc_ids)
        again = model.embed([entry.text for entry in entries])
        require_vectors_of(doc_ids, stored, again, f"{self._collections.label} {target} (delete it and run again)")
        found = self._collections.nearest(target, again[0].tolist())
        is_twin = cosines(self._collections.vectors(target, [found]), again[:1]).min() >= SAME_VECTOR
        if found != doc_ids[0] and not is_twin:
            raise DeploymentError(f"{self.label}: a search for chunk {doc_ids[0]} finds chunk {found}")

    @contextmanager
    def _as_deployment_error(self) -> Iterator[None]:
        with as_deployment_error(self._collections.label, self._collections.errors):
            yield

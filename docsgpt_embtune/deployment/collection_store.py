"""Re-embed a collection: a second one is filled beside it, then DocsGPT's `.env` names that one.

Qdrant and Milvus cannot exchange two collections in one step, since an alias never has a collection's own name. But
DocsGPT reads the name of its collection from `.env`, beside EMBEDDINGS_NAME: so both change in one rename of that
file, vectors and model together, and the collection before stays as it is, for the way back. The second collection is
also the journal: a block is in it when it is embedded.
"""

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

DEFAULT_NAME = "docsgpt"  # the host's own
_MARK = "_embtune_"
_FINGERPRINT_LETTERS = 12  # of a model's fingerprint, in the name of its collection

DocId = int | str


@dataclass(frozen=True)
class Entry:
    """A stored chunk without its vector.

    Attributes:
        doc_id: Its id.
        text: What is embedded.
        content: Everything that is stored beside id and vector, as the database gave it.
        metadata: What DocsGPT stored of the chunk, `source_id` among it; empty where another program stored it.
    """

    doc_id: DocId
    text: str
    content: Any
    metadata: Mapping[str, Any]


class Collections(Protocol):
    """What the re-embedding needs of a database of collections.

    Attributes:
        label: The database, in messages.
        setting: The line in `.env` that names DocsGPT's collection.
        errors: What its client raises.
    """

    label: str
    setting: str
    errors: tuple[type[Exception], ...]

    def names(self) -> list[str]:
        """Name the collections that are there."""

    def exists(self, name: str) -> bool:
        """Tell whether a collection is there."""

    def width(self, name: str) -> int:
        """Return the width of its vectors."""

    def entries(self, name: str) -> Iterator[Entry]:
        """Read a whole collection."""

    def fetch(self, name: str, doc_ids: Sequence[DocId]) -> list[Entry]:
        """Read some entries, in the order of their ids; an id that is not there is left out."""

    def vectors(self, name: str, doc_ids: Sequence[DocId]) -> Vectors:
        """Read some vectors, all of which are there: (N, D), in the order of their ids."""

    def create(self, name: str, like: str, width: int) -> None:
        """Make an empty collection with the settings of another, for vectors of this width."""

    def put(self, name: str, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Store entries with their vectors; what has the same id is replaced."""

    def remove(self, name: str, doc_ids: Sequence[DocId]) -> None:
        """Delete some entries."""

    def nearest(self, name: str, vector: Sequence[float]) -> DocId:
        """Return the id that a search finds first."""

    def drop(self, name: str) -> None:
        """Delete a collection."""


class CollectionStore:
    """DocsGPT's collection, all sources in one.

    Args:
        collections: The database.
        environment: The host's `.env`, which names the collection.
    """

    def __init__(self, collections: Collections, environment: EnvironmentFile) -> None:
        self._collections = collections
        self._environment = environment
        self._name = environment.get(self.setting) or DEFAULT_NAME
        previous = environment.get_replaced(self.setting, DEFAULT_NAME)
        self._previous = previous if previous != self._name else None  # the same: a rollback was interrupted
        with self._as_deployment_error():
            if not collections.exists(self._name):
                raise DeploymentError(
                    f"{collections.label} has no collection {self._name!r}, which {environment.path} names in "
                    f"{self.setting} (DocsGPT's default is {DEFAULT_NAME!r}); give the .env that DocsGPT runs on"
                )

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{self._collections.label} {self._name}"

    @property
    def setting(self) -> str:
        """The line in `.env` that names the collection."""
        return self._collections.setting

    def texts(self) -> list[str]:
        """Return the text of every entry."""
        with self._as_deployment_error():
            return [entry.text for entry in self._collections.entries(self._name)]

    def width(self) -> int:
        """Return the declared width."""
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
        """Tell whether `.env` names the collection that was built with this model, and no chunk in it is another's."""
        with self._as_deployment_error():
            return self._is_target(model) and not self._has_foreign_latecomers(model)

    def require_switchable(self, model: DeployedModel) -> None:
        """Check nothing: what may forbid it shows as the second collection is made, before a chunk is embedded."""

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the texts of the entries that the second collection does not have."""
        with self._as_deployment_error():
            if self._is_target(model):
                return sorted({entry.text for entry in self._collections.fetch(self._name, self._latecomers())})
            built = self._ids(self._target(model))
            return sorted({entry.text for entry in self._collections.entries(self._name) if entry.doc_id not in built})

    def bytes_needed(self, model: DeployedModel) -> int:
        """Count the new vectors and a second copy of each text."""
        return sum(4 * model.dimension + len(text.encode()) for text in self.texts())

    def build(self, model: DeployedModel) -> None:
        """Fill the second collection, longest texts first, one block after another."""
        with self._as_deployment_error():
            target = self._target(model)
            if self._is_target(model):
                self._embed(self._latecomers(), target, model)
                return
            if not self._collections.exists(target):
                self._collections.create(target, like=self._name, width=model.dimension)
            self._bring_up_to_date(target, model)

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return the line that names the second collection: the one step."""
        return {self.setting: self._target(model)}

    def prepare(self, model: DeployedModel) -> None:
        """Verify the second collection, which `.env` is to name."""
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
        """Take along what came in since; `.env`, which is to name the second collection, is the one step."""
        if not self._is_target(model):
            with self._as_deployment_error():
                self._bring_up_to_date(self._target(model), model)

    def can_roll_back(self) -> bool:
        """Tell whether `.env` was switched to a collection that was built here; the one before has the same chunks."""
        if self._previous is None or _MARK not in self._name:
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
        """Return entries of the collection that `.env` named before."""
        with self._as_deployment_error():
            if self._previous is None or not self._collections.exists(self._previous):
                return None
        return self._sample(self._previous, size)

    def fingerprint_before(self) -> str | None:
        """Return what is in that collection's name."""
        _, mark, fingerprint = (self._previous or "").partition(_MARK)
        return fingerprint if mark else None

    def roll_back(self) -> None:
        """Delete the second collection, which `.env` no longer names; the first was never touched."""
        if self._environment.get(self.setting) == self._name:
            raise DeploymentError(f"{self.label}: {self._environment.path} names it still; give that .env, too")
        with self._as_deployment_error():
            self._collections.drop(self._name)

    def kept(self) -> str:
        """Name the collection that `.env` named before, if it names one that was built here."""
        with self._as_deployment_error():
            if self._previous is None or _MARK not in self._name or not self._collections.exists(self._previous):
                return ""
        return f"collection {self._previous}"

    def require_forgettable(self) -> None:
        """Check nothing: only the database tells whether it lets a collection be deleted, and then it is."""

    def forget(self) -> None:
        """Delete that collection."""
        if self._previous is not None and self.kept():
            with self._as_deployment_error():
                self._collections.drop(self._previous)

    def _target(self, model: DeployedModel) -> str:
        root = self._name.split(_MARK)[0]
        return f"{root}{_MARK}{model.fingerprint[:_FINGERPRINT_LETTERS]}"

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
        """List what the collection before does not have; nothing where that is gone, since all would seem late."""
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
        """Give the second collection the entries of the first, and no other; return how many were missing or extra.

        Ids are compared and not texts: DocsGPT stores a chunk that was edited under a new id.
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

"""The interface to a vector store that re-embedding and the doctor use, the same for every kind of store."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from docsgpt_embtune.deployment.deployed_model import DeployedModel
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.vectors import Vectors

VERIFIED_CHUNKS = 16  # chunks of the new vectors that are checked before the swap
# Chunks of each source that the doctor samples: if one in twenty is another model's, it finds one with 96 % certainty.
SAMPLED_CHUNKS = 64
# Chunks added since a swap that `is_on` checks. It also checks those in the doctor's sample, so that a store that the
# doctor calls mixed never counts as "on the model already".
LATECOMERS_CHECKED = SAMPLED_CHUNKS
LATECOMER_ROUNDS = 5  # attempts to swap while chunks keep coming in; after that the user has to stop the worker


@dataclass(frozen=True)
class StoredSample:
    """Stored chunks with their vectors.

    Attributes:
        doc_ids: Ids of the chunks.
        texts: Texts of the chunks.
        vectors: Stored vectors, (N, D).
    """

    doc_ids: Sequence[str]
    texts: Sequence[str]
    vectors: Vectors


class ChunkStore(Protocol):
    """A vector store whose chunks can be re-embedded: built beside the old, verified, swapped in one step, rolled back.

    Every step may be repeated. A process that is killed during any of them leaves either the old vectors or the new
    ones in force and whole.
    """

    @property
    def label(self) -> str:
        """The store's name in messages."""

    def texts(self) -> list[str]:
        """Return the text of every stored chunk, duplicates included."""

    def width(self) -> int:
        """Return the width of the vectors in force."""

    def sample(self, size: int) -> StoredSample:
        """Return `size` chunks spread over the store, the same ones every time; all chunks if there are fewer."""

    def is_on(self, model: DeployedModel) -> bool:
        """Tell whether a finished re-embedding onto this model is in force.

        It is not if chunks are found that another model has embedded since, as a worker does that was not restarted.
        """

    def require_switchable(self, model: DeployedModel) -> None:
        """Check for obstacles to the build or the swap that can be known before any store's chunks are embedded.

        Raises:
            DeploymentError: If there is one.
        """

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the texts still to be embedded with this model: all, or those that an interrupted run left."""

    def bytes_needed(self, model: DeployedModel) -> int:
        """Return the disk space, in bytes, that the new vectors need beside the old."""

    def build(self, model: DeployedModel) -> None:
        """Embed every chunk beside the vectors in force, or resume where an earlier run stopped."""

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return the `.env` settings, besides the model's, that put the new vectors in force; none if `swap` does."""

    def prepare(self, model: DeployedModel) -> None:
        """Verify the new vectors, and do all else that takes time or disk space, so that `swap` can hardly fail.

        Raises:
            DeploymentError: If the new vectors are not this model's, or not those of the chunks in force.
        """

    def swap(self, model: DeployedModel) -> None:
        """Put the new vectors in force in one step, unless `settings` does; lose no chunk that came in meanwhile.

        Raises:
            DeploymentError: If chunks came in that cannot be included; the old vectors stay in force.
        """

    def can_roll_back(self) -> bool:
        """Tell whether there is a swap to roll back.

        Raises:
            DeploymentError: If the rollback would lose chunks, or a file that it replaces cannot be written to.
        """

    def sample_before(self, size: int) -> StoredSample | None:
        """Return chunks with the vectors that a rollback would restore; None if there are no such vectors."""

    def fingerprint_before(self) -> str | None:
        """Return the fingerprint, or its beginning, of the model that made those vectors; None if the host made them.

        Only a re-embedding records a fingerprint.
        """

    def roll_back(self) -> None:
        """Put the vectors from before the last swap in force again, identical to the byte.

        Raises:
            DeploymentError: If the rollback fails after all; the new vectors stay in force.
            OSError: The same, where a file cannot be written.
        """

    def kept(self) -> str:
        """Name what is kept for a rollback; empty if nothing is."""

    def unfinished(self) -> str:
        """Name what a run may have left that did not finish; empty if nothing is.

        `forget` does not delete it: another deployment that shares the database may have it in force.
        """

    def replaces_kept(self, model: DeployedModel) -> bool:
        """Tell whether a switch to this model puts the vectors in force in the place of those that are kept."""

    def require_forgettable(self) -> None:
        """Check for obstacles to `forget` that can be known before anything is deleted from any store.

        Raises:
            DeploymentError: If there is one.
        """

    def forget(self) -> None:
        """Delete what is kept for a rollback, after which none is possible; the vectors in force stay."""


def stored_text(value: object, where: str, doc_id: object) -> str:
    """Return what is stored as a chunk's text; an empty text if nothing is.

    Args:
        value: What is stored.
        where: The store, as messages name it.
        doc_id: The chunk's id.

    Raises:
        DeploymentError: If it is no text, which no model can embed.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DeploymentError(
            f"{where}: the text of chunk {doc_id!r} is no text but of type {type(value).__name__}; delete that chunk, "
            "or upload its source again"
        )
    return value


def spread(total: int, size: int) -> list[int]:
    """Return `size` positions evenly spread over `total`; all positions if there are fewer.

    Example:
        >>> spread(10, 3)
        [0, 4, 9]
    """
    if total <= size:
        return list(range(total))
    if size == 1:
        return [0]
    return [position * (total - 1) // (size - 1) for position in range(size)]


_NOTHING_LOST = (
    "the old vectors are in force and whole, and what was embedded is kept: mend that and run the same command again"
)
NOT_OPENED = "it could not be opened: see that it runs, that its address is right, and that nothing else has it open"


@contextmanager
def as_deployment_error(
    label: str, errors: tuple[type[Exception], ...], remedy: str = _NOTHING_LOST, *, address: str = ""
) -> Iterator[None]:
    """Turn the exceptions of a database client into a DeploymentError of one line.

    Args:
        label: The database's name in the message.
        errors: Exception classes of the client.
        remedy: What to do about the error.
        address: The database's address, if the message is to give it. If it contains credentials, they are left out,
            and so is the client's own message, which may quote them.
    """
    try:
        yield
    except errors as error:
        shown = without_credentials(address)
        said = " ".join(str(error).split()) if shown == address else ""
        raise DeploymentError(f"{f'{label} {shown}'.rstrip()}: {said or type(error).__name__}; {remedy}") from error

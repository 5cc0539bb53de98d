"""What re-embedding and the doctor ask of a vector store, whichever it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from docsgpt_embtune.deployment.deployed_model import DeployedModel
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.vectors import Vectors

VERIFIED_CHUNKS = 16  # of what was built, before it is swapped
SAMPLED_CHUNKS = 64  # by the doctor, of each source: it finds one in twenty of another model with 96 % certainty
# Of the chunks that came in since a swap, those that the doctor samples among them: what it calls mixed is never "on
# the model already".
LATECOMERS_CHECKED = SAMPLED_CHUNKS
LATECOMER_ROUNDS = 5  # times that chunks may come in between building and swapping before it is the user's to stop them


@dataclass(frozen=True)
class StoredSample:
    """Chunks as they are stored, each with its vector.

    Attributes:
        doc_ids: Ids of the chunks.
        texts: Their texts.
        vectors: (N, D), as the store has them.
    """

    doc_ids: Sequence[str]
    texts: Sequence[str]
    vectors: Vectors


class ChunkStore(Protocol):
    """A vector store whose chunks can be embedded anew: built beside, verified, swapped in one step, taken back.

    Every step may be repeated, and a process that is killed in any of them leaves the old vectors in force and
    whole, or the new ones.
    """

    @property
    def label(self) -> str:
        """What to call it in messages."""

    def texts(self) -> list[str]:
        """Return the text of every stored chunk; a text that stands twice comes twice."""

    def width(self) -> int:
        """Return the width of the vectors that are in force."""

    def sample(self, size: int) -> StoredSample:
        """Return `size` stored chunks, spread over the store, the same ones every time; all if there are fewer."""

    def is_on(self, model: DeployedModel) -> bool:
        """Tell whether a finished re-embedding onto this model is in force.

        It is not while chunks are found that another model made since: a worker's that was not restarted.
        """

    def require_switchable(self, model: DeployedModel) -> None:
        """Check what can be known to forbid the build or the swap before any store's chunks are embedded.

        Raises:
            DeploymentError: If something does.
        """

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the texts that an interrupted run, if any, has not embedded with this model."""

    def bytes_needed(self, model: DeployedModel) -> int:
        """Return the disk that the new vectors need beside the old, in bytes."""

    def build(self, model: DeployedModel) -> None:
        """Embed every chunk beside what is in force, or go on where an earlier run stopped."""

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return the lines of `.env` that put what was built in force, beside the model's; none if `swap` does."""

    def prepare(self, model: DeployedModel) -> None:
        """Verify what was built, and do all else that takes time or room, so that `swap` is short and can hardly fail.

        Raises:
            DeploymentError: If it is not this model's, or not of the chunks that are in force.
        """

    def swap(self, model: DeployedModel) -> None:
        """Put what was prepared in force in one step, unless `settings` do, and lose no chunk that came in meanwhile.

        Raises:
            DeploymentError: If chunks came in that cannot be taken along; the old vectors stay in force.
        """

    def can_roll_back(self) -> bool:
        """Tell whether there is a swap to take back.

        Raises:
            DeploymentError: If chunks would be lost by it, or what it takes cannot be written to.
        """

    def sample_before(self, size: int) -> StoredSample | None:
        """Return chunks with the vectors that a rollback would bring back; None if there are no such vectors."""

    def fingerprint_before(self) -> str | None:
        """Return the fingerprint, or its beginning, of the re-embedding that made these; None if the host made them."""

    def roll_back(self) -> None:
        """Put the vectors before the last swap in force again, to the byte.

        Raises:
            DeploymentError: If it cannot be done after all; OSError the same. The new vectors stay in force.
        """

    def kept(self) -> str:
        """Name what is kept for a rollback; empty if nothing is."""

    def require_forgettable(self) -> None:
        """Check what can be known to forbid that it is deleted before any store's is.

        Raises:
            DeploymentError: If something does.
        """

    def forget(self) -> None:
        """Delete that; what is in force stays, and there is no way back."""


def spread(total: int, size: int) -> list[int]:
    """Return `size` positions, evenly spread over `total`; all of them if there are fewer.

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
    """Turn what a database's client raises into one line.

    Args:
        label: The database.
        errors: What the client raises.
        remedy: What to do about it.
        address: Where the database is, if that is to be told. A password in it is not, and then no words of the
            client's either, which may quote it.
    """
    try:
        yield
    except errors as error:
        shown = without_credentials(address)
        said = " ".join(str(error).split()) if shown == address else ""
        raise DeploymentError(f"{f'{label} {shown}'.rstrip()}: {said or type(error).__name__}; {remedy}") from error

"""Stored chunks onto another model: all stores are built and verified beside the old, then swapped."""

import errno
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.serving import ServingModel
from docsgpt_embtune.deployment.stores import ChunkStore, spread
from docsgpt_embtune.errors import DeploymentError

TIMED_CHUNKS = 8  # in each of the rounds, of which the median counts: a machine may be busy for a moment
TIMED_ROUNDS = 3
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Plan:
    """What re-embedding one store would do.

    Attributes:
        label: The store.
        chunks: Chunks in it.
        remaining: Different texts still to be embedded.
        width_before: Width of its vectors now.
        width_after: Width that they would have.
        seconds: Estimate of the time, from a sample embedded here and now.
        disk_bytes: Disk needed beside what is there.
        done: Whether it is on this model already.
    """

    label: str
    chunks: int
    remaining: int
    width_before: int
    width_after: int
    seconds: float
    disk_bytes: int
    done: bool


def plan(stores: Sequence[ChunkStore], model: ServingModel) -> list[Plan]:
    """Say what `reembed` would do; nothing is changed.

    Raises:
        DeploymentError: If a store cannot be read.
    """
    return [_plan(store, model) for store in stores]


def _plan(store: ChunkStore, model: ServingModel) -> Plan:
    texts = store.texts()
    done = store.is_on(model)
    remaining = [] if done else store.remaining(model)
    return Plan(
        label=store.label,
        chunks=len(texts),
        remaining=len(remaining),
        width_before=store.width(),
        width_after=model.dimension,
        seconds=_estimate(remaining, model),
        disk_bytes=0 if done else store.bytes_needed(model),
        done=done,
    )


def _estimate(texts: list[str], model: ServingModel) -> float:
    sample = [texts[position] for position in spread(len(texts), TIMED_ROUNDS * TIMED_CHUNKS)]
    if not sample:
        return 0.0
    model.embed_many(sample[:1])  # the first call starts the threads
    rounds = [_seconds(sample[number::TIMED_ROUNDS], model) for number in range(TIMED_ROUNDS)]
    return statistics.median(rounds) / len(sample[::TIMED_ROUNDS]) * len(texts)


def _seconds(texts: list[str], model: ServingModel) -> float:
    started = time.perf_counter()
    model.embed_many(texts)
    return time.perf_counter() - started


def reembed(
    stores: Sequence[ChunkStore], model: ServingModel, environment: EnvironmentFile | None = None
) -> list[ChunkStore]:
    """Embed every chunk anew, keeping ids, texts and metadata, and put the new vectors in force.

    Every store is built, and the new `.env` written beside the old, before the first is swapped: a failure until
    then changes nothing, and what was embedded is kept for the next run.

    Args:
        stores: The stores of one deployment.
        model: What to embed with.
        environment: The host's `.env`; its EMBEDDINGS_NAME is set to the model with the swap.

    Returns:
        The stores that were swapped: those that were not on the model already.

    Raises:
        DeploymentError: If a store cannot be read or changes meanwhile, or the disk is full.
    """
    pending = [store for store in stores if not store.is_on(model)]
    for store in pending:
        with _disk_may_be_full(store.label):
            store.build(model)
    with ExitStack() as switched:
        if environment is not None:
            with _disk_may_be_full(str(environment.path)):
                switched.enter_context(environment.switched(settings_for(pending, model)))
        for store in pending:
            with _disk_may_be_full(store.label):
                store.swap(model)
    return pending


def settings_for(stores: Sequence[ChunkStore], model: ServingModel) -> dict[str, str]:
    """Return what the host's `.env` has to say once these stores are on this model."""
    settings = {"EMBEDDINGS_NAME": str(model.folder)}
    for store in stores:
        settings |= store.settings(model)
    return settings


def roll_back(stores: Sequence[ChunkStore], environment: EnvironmentFile | None = None) -> list[ChunkStore]:
    """Put back the vectors, and the `.env` lines, that the last re-embedding replaced; safe to repeat.

    Returns:
        The stores that were rolled back: not those that have nothing to take back.

    Raises:
        DeploymentError: If there is nothing to take back, or chunks were added since.
    """
    swapped = [store for store in stores if store.can_roll_back()]
    taken_back = environment is not None and environment.take_back()
    if not swapped and not taken_back:
        raise DeploymentError(f"{', '.join(store.label for store in stores)}: no re-embedding to take back")
    for store in swapped:  # after `.env`: what it named goes when it names it no more
        store.roll_back()
    return swapped


def require_disk(stores: Sequence[ChunkStore], model: ServingModel, folder: Path) -> None:
    """Raise DeploymentError if the new vectors do not fit on the disk of `folder` beside the old."""
    needed = sum(store.bytes_needed(model) for store in stores if not store.is_on(model))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DeploymentError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed beside the old vectors and {free / 1e6:,.0f} MB are free; "
            f"make room for {(needed - free) / 1e6:,.0f} MB more"
        )


@contextmanager
def _disk_may_be_full(label: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_SPACE or "No space left" in str(error) or "write error" in str(error)
        remedy = "make room on the disk and" if full else "mend that and"
        raise DeploymentError(
            f"{label}: {error.strerror or error}; the old vectors are in force and whole, and what was embedded is "
            f"kept: {remedy} run the same command again"
        ) from error

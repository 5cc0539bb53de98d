"""Re-embed stored chunks with another model: build and verify the new vectors beside the old, then swap them in."""

import errno
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import INDEX
from docsgpt_embtune.deployment.file_lock import refuse_windows
from docsgpt_embtune.deployment.stores import VERIFIED_CHUNKS, ChunkStore, spread
from docsgpt_embtune.destinations import lack_of_room
from docsgpt_embtune.errors import DeploymentError, EmbtuneError
from docsgpt_embtune.files import tells_of_full_disk

TIMED_CHUNKS = 8  # per round; the estimate uses the median round, since a machine may be busy for a moment
TIMED_ROUNDS = 3
_DEFAULT = "DocsGPT's default"  # the model's name where EMBEDDINGS_NAME is not set


@dataclass(frozen=True)
class ReembedPlan:
    """What re-embedding one store would do.

    Attributes:
        label: The store, as messages name it.
        chunks: Number of chunks in the store.
        remaining: Number of distinct texts still to be embedded.
        width_before: Current width of the vectors.
        width_after: Width of the new vectors.
        seconds: Estimated time, from a sample that is embedded for this plan.
        disk_bytes: Additional disk space needed.
        done: Whether the store is on this model already.
    """

    label: str
    chunks: int
    remaining: int
    width_before: int
    width_after: int
    seconds: float
    disk_bytes: int
    done: bool


def plan(stores: Sequence[ChunkStore], model: DeployedModel) -> list[ReembedPlan]:
    """Say what `reembed` would do, without changing anything.

    Raises:
        DeploymentError: If a store cannot be read, or a known obstacle forbids re-embedding it.
    """
    return [_plan(store, model) for store in stores]


def _plan(store: ChunkStore, model: DeployedModel) -> ReembedPlan:
    texts = store.texts()
    done = store.is_on(model)
    if not done:
        store.require_switchable(model)
    remaining = [] if done else store.remaining(model)
    return ReembedPlan(
        label=store.label,
        chunks=len(texts),
        remaining=len(remaining),
        width_before=store.width(),
        width_after=model.dimension,
        seconds=_estimate(remaining, model),
        disk_bytes=0 if done else store.bytes_needed(model),
        done=done,
    )


def _estimate(texts: list[str], model: DeployedModel) -> float:
    sample = [texts[position] for position in spread(len(texts), TIMED_ROUNDS * TIMED_CHUNKS)]
    if not sample:
        return 0.0
    model.embed_many(sample[:1])  # the first call starts the threads
    rounds = [_seconds(sample[number::TIMED_ROUNDS], model) for number in range(TIMED_ROUNDS)]
    return statistics.median(rounds) / len(sample[::TIMED_ROUNDS]) * len(texts)


def _seconds(texts: list[str], model: DeployedModel) -> float:
    started = time.perf_counter()
    model.embed_many(texts)
    return time.perf_counter() - started


def reembed(
    stores: Sequence[ChunkStore], model: DeployedModel, environment: EnvironmentFile | None = None
) -> list[ChunkStore]:
    """Re-embed every chunk, keeping ids, texts and metadata, and put the new vectors in force.

    Every store is built and verified, and the new `.env` is written beside the old, before the first store is swapped.
    A failure before that changes nothing, and the vectors embedded so far are kept for the next run. If a later swap
    fails, the error names the stores that were swapped already.

    Args:
        stores: The stores of one deployment.
        model: The model to embed with.
        environment: The host's `.env`; the swap makes it name the model.

    Returns:
        The stores that were swapped: those that were not on the model already.

    Raises:
        DeploymentError: If a store cannot be read or changes meanwhile, the disk is full, `.env` cannot be replaced, or
            this is Windows.
    """
    refuse_windows()
    if environment is not None:
        environment.require_replaceable(settings_for(stores, model))
    pending = [store for store in stores if not store.is_on(model)]
    for store in pending:
        store.require_switchable(model)
    for store in pending:
        with _disk_may_be_full(store.label):
            store.build(model)
    for store in pending:
        with _disk_may_be_full(store.label):
            store.prepare(model)
    _put_in_force(pending, model, environment)
    return pending


def _put_in_force(stores: Sequence[ChunkStore], model: DeployedModel, environment: EnvironmentFile | None) -> None:
    in_force: list[ChunkStore] = []
    with _half_is_said(in_force, environment), ExitStack() as switched:
        if environment is not None:
            switched.enter_context(_disk_may_be_full(str(environment.path), in_force))
            places = [name for store in stores for name in store.settings(model)]
            switched.enter_context(environment.switched(settings_for(stores, model), places))
        # Stores that `.env` puts in force come first: if one of them fails, nothing has changed yet.
        for store in sorted(stores, key=lambda store: not store.settings(model)):
            with _disk_may_be_full(store.label):
                store.swap(model)
            if not store.settings(model):
                in_force.append(store)


def settings_for(stores: Sequence[ChunkStore], model: DeployedModel) -> dict[str, str]:
    """Return the settings that the host's `.env` needs once these stores are on this model."""
    settings = model.settings
    for store in stores:
        settings |= store.settings(model)
    return settings


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do.

    Attributes:
        stores: The stores that would get their old vectors back.
        settings: Name -> old value of each `.env` setting that would be restored, None where it was not set; empty if
            `.env` stays as it is.
    """

    stores: list[ChunkStore]
    settings: Mapping[str, str | None]


def plan_rollback(
    stores: Sequence[ChunkStore], environment: EnvironmentFile | None = None, model: DeployedModel | None = None
) -> RollbackPlan:
    """Say what `roll_back` would do, or raise what it would raise, without changing anything.

    Args:
        stores: The stores, as in `roll_back`.
        environment: The host's `.env`, as in `roll_back`.
        model: The model that `.env` names now, as in `roll_back`.

    Raises:
        DeploymentError: If there is nothing to roll back, chunks were added since, a store cannot be written to, or
            `.env` and the stores would end up on different models.
    """
    switched_to = None if environment is None else _model_in(environment.get_switched("EMBEDDINGS_NAME")) or model
    if switched_to is not None and (unfinished := _swapped_before_env_switch(stores, switched_to)):
        return RollbackPlan(unfinished, {})  # `.env` and the record of its last switch stay as they are
    swapped = [store for store in stores if store.can_roll_back()]
    if environment is None:
        _require_one_model_before(swapped)
    else:
        if switched_to is not None:
            _require_none_left_behind([store for store in stores if store not in swapped], switched_to)
        if swapped:
            _require_vectors_of_restored_name(swapped, environment, model)
    settings = environment.before_switch() if environment is not None else None
    if not swapped and settings is None:
        raise DeploymentError(f"{', '.join(store.label for store in stores)}: no re-embedding to take back")
    return RollbackPlan(swapped, settings or {})


def roll_back(
    stores: Sequence[ChunkStore], environment: EnvironmentFile | None = None, model: DeployedModel | None = None
) -> list[ChunkStore]:
    """Put back the vectors and the `.env` lines that the last re-embedding replaced; safe to repeat.

    Afterwards `.env` and the stores are on the same model. If the last switch failed before it changed `.env`, only
    the stores that it had swapped are rolled back, to the model that `.env` still names.

    Args:
        stores: The stores of one deployment.
        environment: The host's `.env`.
        model: The model that `.env` names now, needed if that is a server's model or a name instead of a folder.
            Without it, chunks uploaded since to a store that has nothing to roll back go unnoticed.

    Returns:
        The stores that were rolled back; a store with nothing to roll back is not among them.

    Raises:
        DeploymentError: As `plan_rollback`, in which case nothing is changed. Also if a store fails later: `.env` and
            the stores that were rolled back before it stay so, and the message names them.
    """
    rollback = plan_rollback(stores, environment, model)
    if environment is None or not rollback.settings:
        return _all_rolled_back(rollback.stores)
    environment.take_back()
    # `.env` first: a collection that it named may be deleted only after that. Its record is deleted last, since an
    # interrupted rollback resumes from it.
    _all_rolled_back(rollback.stores, environment)
    environment.forget_switch()
    return rollback.stores


def forget(stores: Sequence[ChunkStore], environment: EnvironmentFile | None = None) -> None:
    """Delete the record of `.env` lines, and all vectors that are kept beside those in force; safe to repeat.

    Args:
        stores: The stores of one deployment.
        environment: The host's `.env`.

    Raises:
        DeploymentError: If a store is not on the model in `.env`, so that a rollback may still be needed, or another
            known obstacle forbids the deletion; nothing is deleted then. The stores' model is not checked where
            `.env` names no model folder, as with a server's model.
    """
    model = None if environment is None else _model_in(environment.get("EMBEDDINGS_NAME"))
    if environment is not None and model is not None:
        others = [
            store.label
            for store in stores
            if store.kept() and store.sample(1).texts and not _has_vectors_of(model, store)
        ]
        if others:
            raise DeploymentError(
                f"{', '.join(others)}: not on {model.name}, which {environment.path} names, so nothing is deleted; "
                "run embtune reembed with that model, or with --rollback, first"
            )
    for store in stores:
        store.require_forgettable()
    for store in stores:
        store.forget()
    if environment is not None:  # last, since its record names the previous collections
        environment.forget()


def _all_rolled_back(stores: list[ChunkStore], environment: EnvironmentFile | None = None) -> list[ChunkStore]:
    """Roll stores back; an error names what has been rolled back, `.env` included if given, and what has not."""
    back = [] if environment is None else [str(environment.path)]
    for position, store in enumerate(stores):
        try:
            store.roll_back()
        except (OSError, DeploymentError) as error:
            reason = f"{store.label}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            left = ", ".join(store.label for store in stores[position:])
            half = f"{', '.join(back)}: back already, and not yet {left}" if back else "nothing is rolled back"
            raise DeploymentError(f"{reason}; {half}: mend that and run the same command again") from error
        back.append(store.label)
    return stores


def _swapped_before_env_switch(stores: Sequence[ChunkStore], model: DeployedModel) -> list[ChunkStore]:
    """List the stores that a second switch swapped before it failed to change `.env`.

    Args:
        stores: The stores of one deployment.
        model: The model that `.env` still names, from the first switch.
    """
    return [
        store
        for store in stores
        if not store.settings(model)  # a store that `.env` puts in force cannot be ahead of it
        and not store.is_on(model)
        and _had_vectors_of(model, store)
        and not _has_vectors_of(model, store)
        and store.can_roll_back()
    ]


def _require_one_model_before(stores: Sequence[ChunkStore]) -> None:
    if len({store.fingerprint_before() for store in stores}) > 1:
        raise DeploymentError(
            f"{', '.join(store.label for store in stores)}: would go back to vectors of different models, so nothing "
            "is rolled back; give --env, which tells how far to go back, or name those that belong together alone"
        )


def _require_vectors_of_restored_name(
    stores: Sequence[ChunkStore], environment: EnvironmentFile, named_now: DeployedModel | None
) -> None:
    """Check that the restored vectors would be those of the model that the restored `.env` names."""
    replaced = environment.get_replaced("EMBEDDINGS_NAME", _DEFAULT)
    name = (environment.get("EMBEDDINGS_NAME") if replaced is None else replaced) or _DEFAULT
    model = _model_in(name)
    if replaced is None:  # `.env` would stay as it is: it was never switched, or the record of its switch is gone
        model = model or named_now
        if model is None:
            raise DeploymentError(
                f"{environment.path}: no switch is on record beside it, and {name}, which it names, is no folder here, "
                "so that the vectors which would come back may not be of it; give --model, too: the one that it names"
            )
    if model is None:  # a name and no folder: its vectors are those of before the first re-embedding, on no record
        others = [store.label for store in stores if store.fingerprint_before() is not None]
    else:
        others = [store.label for store in stores if not _had_vectors_of(model, store)]
    if others:
        raise DeploymentError(
            f"{', '.join(others)}: the vectors that would come back are not of {name}, which {environment.path} would "
            "name (they were re-embedded more than once since, or another model is in that folder now), so nothing is "
            "rolled back; embed them all with the old model instead: embtune reembed --model OLD_MODEL"
        )


def _model_in(folder: str | None) -> DeployedModel | None:
    if folder is None or not Path(folder).is_dir():
        return None
    try:
        return load_deployed_model(folder)
    except EmbtuneError:  # a damaged model must not forbid a rollback, and there is nothing to compare vectors with
        return None


def _had_vectors_of(model: DeployedModel, store: ChunkStore) -> bool:
    before = store.sample_before(VERIFIED_CHUNKS)
    if before is None or not before.texts:
        return before is not None
    if before.vectors.shape[1] != model.dimension:
        return False
    return bool(model.made(before.texts, before.vectors).mean() > 0.5)  # a few may have been another model's all along


def _require_none_left_behind(stores: Sequence[ChunkStore], model: DeployedModel) -> None:
    left_behind = [store.label for store in stores if _has_vectors_of(model, store)]
    if left_behind:
        raise DeploymentError(
            f"{', '.join(left_behind)}: has vectors of {model.name} and no old ones to go back to (uploaded since, "
            "or its old index was deleted), so nothing is rolled back; embed them all with the old model instead: "
            "embtune reembed --model OLD_MODEL"
        )


def _has_vectors_of(model: DeployedModel, store: ChunkStore) -> bool:
    if store.width() != model.dimension:
        return False
    stored = store.sample(VERIFIED_CHUNKS)
    return bool(model.made(stored.texts, stored.vectors).any())


def require_disk(stores: Sequence[ChunkStore], model: DeployedModel, folder: Path) -> None:
    """Raise DeploymentError if the new vectors do not fit beside the old ones on the disk of `folder`."""
    needed = sum(store.bytes_needed(model) for store in stores if not store.is_on(model))
    if lack := lack_of_room(folder / INDEX, needed):
        raise DeploymentError(f"{lack} beside the old vectors; make room, and run the same command again")


@contextmanager
def _half_is_said(in_force: Sequence[ChunkStore], environment: EnvironmentFile | None) -> Iterator[None]:
    """Add to an error, or as a note to an interrupt, which stores were swapped before it."""
    try:
        yield
    except DeploymentError as error:
        if not in_force:
            raise
        raise DeploymentError(f"{error}; but {_half_in_words(in_force, environment)}") from error
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C and SIGTERM
        if in_force:
            stop.add_note(_half_in_words(in_force, environment))
        raise


def _half_in_words(in_force: Sequence[ChunkStore], environment: EnvironmentFile | None) -> str:
    beside, named = "", ""
    if environment is not None:
        beside = f", while {environment.path} still names the old one"
        named = ", and with --model the old one where that is no folder here"
    labels = ", ".join(store.label for store in in_force)
    return f"{labels}: on the new model already{beside}; to go back there, run with --rollback{named}"


@contextmanager
def _disk_may_be_full(label: str, in_force: Sequence[ChunkStore] = ()) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = tells_of_full_disk(error) or error.errno == errno.EFBIG or "write error" in str(error)
        remedy = "make room on the disk and" if full else "mend that and"
        state = "" if in_force else "the old vectors are in force and whole, and "
        raise DeploymentError(
            f"{label}: {error.strerror or error}; {state}what was embedded is kept: {remedy} run the same command again"
        ) from error

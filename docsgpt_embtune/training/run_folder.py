"""The folder in which a run keeps what it needs to resume after a kill."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from docsgpt_embtune.destinations import folder_above, lack_of_room
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.files import locked, tells_of_full_disk, write_text_atomically
from docsgpt_embtune.model_folder import is_tuned_folder
from docsgpt_embtune.stopping import told_when_stopped
from docsgpt_embtune.training.processes import process_count
from docsgpt_embtune.wording import Say

_IDENTITY_FILE = "run.json"
_SECONDS_FILE = "seconds.json"
# Copies of the model's weights, at least: the best ones so far, and those that the current stage starts from.
_KEPT_WEIGHTS = 2


@contextmanager
def run_folder(out: Path, identity: Mapping[str, Any], *, resume: bool, say: Say) -> Iterator[Path | None]:
    """Yield a hidden folder beside the future model folder, removed when the block succeeds or raises TrainingError.

    A distributed run has none: after a kill, nobody knows how far each process got.

    The folder holds weights, vectors, scores and settings, but no text. One that an earlier run left behind is emptied,
    unless that run is to be resumed.

    Args:
        out: The future model folder.
        identity: What decides the run's outcome.
        resume: Resume the earlier run.
        say: Takes one line of plain text.

    Raises:
        TrainingError: If the folder was left by a different run than the one to resume, another run is using it, or the
            run to resume is distributed, or finished.
    """
    if process_count() > 1:
        if resume:
            raise TrainingError(f"--resume is for one process, and these are {process_count()}; start anew without it")
        yield None
        return
    folder = _folder_of(out)
    if resume and is_tuned_folder(out) and not (folder / _IDENTITY_FILE).is_file():
        raise TrainingError(
            f"{out}: is finished, and no run to it was stopped; to train it anew leave out --resume, or give another "
            "--out"
        )
    started = time.monotonic()
    with _alone_in(folder, out):
        _prepare(folder, json.loads(json.dumps(identity)), resume=resume, say=say)

        def tell(_: BaseException) -> None:
            seconds = seconds_before(folder) + time.monotonic() - started
            write_text_atomically(folder / _SECONDS_FILE, json.dumps(seconds))
            say(f"stopped     the same command with --resume goes on from here ({folder})")

        try:
            with told_when_stopped(tell):
                yield folder
        except TrainingError:  # a resumed run would fail the same way; other errors may be fixed first
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as error:
            if tells_of_full_disk(error):
                say(f"full disk   with more room the same command with --resume goes on from here ({folder})")
            raise
        shutil.rmtree(folder, ignore_errors=True)


def refuse_full_disk(out: Path, model_bytes: int) -> None:
    """Raise TrainingError if the disk has no room for a model and for what its run keeps beside it.

    This is the least that every run needs; a run of many minutes keeps more on the way.

    Args:
        out: The future model folder.
        model_bytes: Size of the base model; the tuned one takes about as much.
    """
    kept = 0 if process_count() > 1 else _KEPT_WEIGHTS * model_bytes
    # What an earlier run to this folder left is reused or removed.
    kept -= min(kept, _bytes_in(_folder_of(out)))
    model, beside = out.resolve(), _folder_of(out)
    needs = {model: model_bytes, beside: kept}  # on different disks, perhaps, if `out` is a link
    if folder_above(model).stat().st_dev == folder_above(beside).stat().st_dev:
        needs = {model: model_bytes + kept}
    for place, needed in needs.items():
        if fault := lack_of_room(place, needed):
            raise TrainingError(
                f"{out}: {fault} for the model and what its run keeps; make room, or give another --out"
            )


def _folder_of(out: Path) -> Path:
    return out.parent / f".{out.name}.run"


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed by another run to the same folder; that is refused later
            total += path.stat().st_size
    return total


def seconds_before(folder: Path | None) -> float:
    """Return the seconds that a run had taken when it was stopped; those before a crash or SIGKILL are not recorded."""
    note = folder and folder / _SECONDS_FILE
    return float(json.loads(note.read_text(encoding="utf-8"))) if note and note.is_file() else 0.0


def noted_once(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """Return the value noted under this name, or else make it and note it for a resumed run.

    Args:
        folder: The run's folder; None notes nothing.
        name: Name of the note's file.
        make: Makes the value, which JSON can hold.
    """
    if folder is None:
        return make()
    note = folder / name
    if note.is_file():
        return json.loads(note.read_text(encoding="utf-8"))
    made = make()
    write_text_atomically(note, json.dumps(made))
    return made


@contextmanager
def _alone_in(folder: Path, out: Path) -> Iterator[None]:
    """Lock the folder against other runs to the same model folder for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(folder))
        except TimeoutError as error:
            raise TrainingError(
                f"{out}: another run to this folder is going on; wait for it, or give another --out"
            ) from error
        yield


def _prepare(folder: Path, identity: dict[str, Any], *, resume: bool, say: Say) -> None:
    note = folder / _IDENTITY_FILE
    if resume and note.is_file():
        left = json.loads(note.read_text(encoding="utf-8"))
        differing = [key for key in identity if left.get(key) != identity[key]]
        if differing:
            raise TrainingError(
                f"{folder}: was left by a run with a different {differing[0]}; run with the same data and settings, or "
                "without --resume to start anew"
            )
        say("resume      going on with the run that was stopped")
        return
    if resume:
        say("resume      no stopped run to this folder was found: starting anew")
    elif note.is_file():
        say("a run to this folder was stopped: it is started anew (--resume goes on with it)")
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    write_text_atomically(note, json.dumps(identity))

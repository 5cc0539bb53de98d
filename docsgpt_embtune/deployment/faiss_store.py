"""Re-embed an index folder: only index.faiss holds vectors, so only that file is replaced, by one rename.

Beside it, `.embtune/` holds the vectors of an unfinished run, the replaced index, and `runs.json`, which identifies
the indexes by their sha256.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from docsgpt_embtune.deployment.deployed_model import DeployedModel, require_vectors_of
from docsgpt_embtune.deployment.faiss_folder import (
    INDEX,
    INDEX_FILES,
    WORK,
    Sidecar,
    index_vectors,
    read_index,
    read_sidecar,
)
from docsgpt_embtune.deployment.file_lock import lock
from docsgpt_embtune.deployment.stores import VERIFIED_CHUNKS, StoredSample, spread
from docsgpt_embtune.deployment.vector_journal import DIGEST_BYTES, VectorJournal, not_embedded, remove_idle
from docsgpt_embtune.destinations import fault_of_destination
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.files import keep_owner, sha256_of, write_text_atomically
from docsgpt_embtune.vectors import SAME_VECTOR, cosines

_SHARD = 8192  # rows added to an index at a time


class FaissStore:
    """The index folder of one source.

    Args:
        folder: The folder that holds index.faiss.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._work = folder / WORK
        self._built = self._work / INDEX
        self._to_be_built = self._work / f"{INDEX}.partial"
        self._previous = self._work / f"previous-{INDEX}"
        self._to_be_previous = self._work / f"previous-{INDEX}.partial"
        self._runs_path = self._work / "runs.json"

    @property
    def label(self) -> str:
        """The folder's name in messages."""
        return str(self.folder)

    def texts(self) -> list[str]:
        """Return the text of every row."""
        return self._read_consistent()[1].row_texts

    def width(self) -> int:
        """Return the width of index.faiss."""
        width: int = read_index(self.folder).d
        return width

    def other_kind(self) -> str:
        """Name the kind of index.faiss if it is another than DocsGPT makes, which the new one will be; empty if not."""
        index = read_index(self.folder)
        return "" if isinstance(index, faiss.IndexFlatL2) else type(index).__name__

    def sample(self, size: int) -> StoredSample:
        """Return rows spread over the index."""
        return _sample(*self._read_consistent(), size)

    def is_on(self, model: DeployedModel) -> bool:
        """Tell whether index.faiss is, byte for byte, the index that was built with this model."""
        in_force = _sha256(self.folder / INDEX)
        return any(run["built"] == in_force and run["model"] == model.fingerprint for run in self._runs())

    def require_switchable(self, model: DeployedModel) -> None:
        """Check that the index has as many vectors as its sidecar has chunks, and can be replaced."""
        self._read_consistent()
        self._require_writable("embedded")

    def _require_writable(self, what: str) -> None:
        for path in (self.folder / INDEX, self._previous):
            if fault := fault_of_destination(path):
                raise DeploymentError(f"{fault}, so that nothing is {what}; run as a user who may do so")

    def remaining(self, model: DeployedModel) -> list[str]:
        """Return the texts whose vectors are not in the journal."""
        return not_embedded(self._work, model, self.texts())

    def bytes_needed(self, model: DeployedModel) -> int:
        """Count what the journal still has to take, the new index, and the copy of the old one."""
        row_bytes, texts = 4 * model.dimension, self.texts()
        journal = len(not_embedded(self._work, model, texts)) * (row_bytes + DIGEST_BYTES)
        return journal + len(texts) * row_bytes + (self.folder / INDEX).stat().st_size

    def build(self, model: DeployedModel) -> None:
        """Embed every chunk into the journal, then write the new index beside the old."""
        before = self._sources()
        sidecar = self._read_consistent()[1]  # without the index, which would stay in memory meanwhile
        with VectorJournal(self._work, model) as journal:
            self._hand_over()  # at once: a run may be killed while it embeds
            try:
                journal.embed_missing(sidecar.row_texts, label=self.folder.name)
                with self._alone():
                    self._require_unchanged(before)
                    self._write_index(sidecar, journal, model)
                    self._put_on_record(before, model)
            finally:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give `.embtune` the owner of index.faiss: after a run by root, that user can go on or roll back, too."""
        for path in (self._work, *self._work.iterdir()):
            keep_owner(path, self.folder / INDEX)

    def _put_on_record(self, before: Mapping[str, str | None], model: DeployedModel) -> None:
        # A run that was swapped in stays on record, however many runs were begun since, so that it can be rolled back.
        in_force = [earlier for earlier in self._runs() if earlier["built"] == before[INDEX]]
        reversible = [earlier for earlier in self._reversible(before) if earlier not in in_force]
        swapped = [*reversible, *in_force]
        run = {
            "model": model.fingerprint,
            "sources": before,
            "built": _sha256(self._built),
            "model_before": swapped[-1]["model"] if swapped else None,
        }
        write_text_atomically(self._runs_path, json.dumps([*swapped, run], indent=1) + "\n")

    def settings(self, model: DeployedModel) -> Mapping[str, str]:
        """Return no settings: the swap itself puts the new vectors in force."""
        return {}

    def prepare(self, model: DeployedModel) -> None:
        """Verify the new index, and copy the old one."""
        with self._alone():
            self._require_own(model)
            self._verify(model)
            self._to_be_previous.unlink(missing_ok=True)  # left by an interrupted run
            if not self._repeats_last_swap_to(model):
                shutil.copyfile(self.folder / INDEX, self._to_be_previous)
                self._make_as_readable(self._to_be_previous)
                _sync(self._to_be_previous)
            self._make_as_readable(self._built)

    def swap(self, model: DeployedModel) -> None:
        """Replace the old index by the new one with a rename; all that takes time was done before, in `prepare`."""
        with self._alone():
            self._require_own(model)
            if self._to_be_previous.exists():
                os.replace(self._to_be_previous, self._previous)
            os.replace(self._built, self.folder / INDEX)
            _sync(self.folder)
        remove_idle(self._work)

    def can_roll_back(self) -> bool:
        """Tell whether the replaced index.faiss is there, and the chunks are still those that belong to it.

        The index in force may be damaged, since a rollback discards it.
        """
        now = self._sources()
        reversible = self._reversible(now)
        if not reversible:
            return False
        self._require_chunks_of(reversible[-1], now)
        self._require_writable("rolled back")
        return True

    def sample_before(self, size: int) -> StoredSample | None:
        """Return rows of the replaced index; its chunks are in the current sidecar."""
        if not self._reversible(self._sources()):
            return None
        return _sample(faiss.read_index(str(self._previous)), read_sidecar(self.folder), size)

    def fingerprint_before(self) -> str | None:
        """Return the fingerprint that the run's record gives for the replaced index."""
        return next((run.get("model_before") for run in self._reversible(self._sources())[-1:]), None)

    def roll_back(self) -> None:
        """Put the replaced index.faiss back; the sidecars were never touched."""
        with self._alone():
            now = self._sources()
            # DocsGPT may have written since `can_roll_back`, while models were loaded.
            for run in self._reversible(now)[-1:]:
                self._require_chunks_of(run, now)
            os.replace(self._previous, self.folder / INDEX)
            _sync(self.folder)
            runs = self._runs_that_built(self.folder / INDEX)
            shutil.rmtree(self._work)
        if runs:  # of the model that is back, so that it is not embedded again where it is in force
            self._work.mkdir()
            write_text_atomically(self._runs_path, json.dumps(runs, indent=1) + "\n")
            self._hand_over()

    def _runs_that_built(self, index: Path) -> list[dict[str, Any]]:
        """List the runs that built an index; none for an index without chunks, which is every model's."""
        built = _sha256(index)
        return [run for run in self._runs() if run["built"] == built != run["sources"][INDEX]]

    def _require_chunks_of(self, run: Mapping[str, Any], now: Mapping[str, str | None]) -> None:
        if now != {**run["sources"], INDEX: now[INDEX]}:
            raise DeploymentError(
                f"{self.folder}: chunks were added or removed since it was re-embedded, and the old index does not "
                "have them; embed them all with the old model instead: embtune reembed --model OLD_MODEL"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process writes into this folder; the wait is short, since none embeds under this lock."""
        with (self._work / "lock").open("ab") as file:
            lock(file, wait=True)
            yield

    def kept(self) -> str:
        """Name the replaced index."""
        return str(self._previous.relative_to(self.folder)) if self._previous.is_file() else ""

    def unfinished(self) -> str:
        """Name nothing: what such a run leaves is found by the next one, and goes with it."""
        return ""

    def replaces_kept(self, model: DeployedModel) -> bool:
        """Tell whether the swap would write over a replaced index that a rollback could put back."""
        return bool(self._reversible(self._sources())) and not self._repeats_last_swap_to(model)

    def require_forgettable(self) -> None:
        """Check that the replaced index may be deleted."""
        if self.kept() and (fault := fault_of_destination(self._previous)):
            raise DeploymentError(f"{fault}, so that nothing is deleted; run as a user who may do so")

    def forget(self) -> None:
        """Delete the replaced index; the record of which model made the one in force stays."""
        if self.kept():
            with self._alone():
                self._previous.unlink(missing_ok=True)

    def _reversible(self, now: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """List the runs that were swapped in and can be rolled back: those built from the index that is kept.

        A run whose source files are still the current ones was not swapped in, unless the source has no chunks: then
        the old index and the new one are the same bytes.
        """
        previous = _sha256(self._previous)
        if previous is None:
            return []
        return [
            run
            for run in self._runs()
            if run["sources"][INDEX] == previous and (run["sources"] != now or run["built"] == previous)
        ]

    def _repeats_last_swap_to(self, model: DeployedModel) -> bool:
        """Tell whether the last swap was to this model already.

        Then a rollback restores what that swap replaced, not the index that this one repairs.
        """
        return any(run["model"] == model.fingerprint for run in self._reversible(self._sources())[-1:])

    def _make_as_readable(self, path: Path) -> None:
        """Give a file the owner and permissions of index.faiss, whose place it will take."""
        keep_owner(path, self.folder / INDEX)
        path.chmod((self.folder / INDEX).stat().st_mode & 0o777)

    def _require_own(self, model: DeployedModel) -> None:
        """Check that the built index is still this model's, and that of the chunks in force."""
        run = (self._runs() or [{}])[-1]
        built = {"model": model.fingerprint, "built": _sha256(self._built)}
        if not built.items() <= run.items():
            raise DeploymentError(
                f"{self._built}: not what was built for {model.name}: another re-embedding was at work here, or the "
                "file was changed; run the same command again"
            )
        self._require_unchanged(run["sources"])

    def _require_unchanged(self, sources: Mapping[str, str | None]) -> None:
        if sources != self._sources():
            raise DeploymentError(
                f"{self.folder}: changed while it was re-embedded (it is not swapped, and no vector is lost); "
                "run the same command again"
            )

    def _read_consistent(self) -> tuple[Any, Sidecar]:
        index, sidecar = read_index(self.folder), read_sidecar(self.folder)
        if index.ntotal != len(sidecar.rows):
            raise DeploymentError(
                f"{self.folder}: {INDEX} has {index.ntotal} vectors and its sidecar {len(sidecar.rows)} chunks, so "
                "texts and vectors are not each other's; restore the files from one backup, or upload the source again"
            )
        return index, sidecar

    def _write_index(self, sidecar: Sidecar, journal: VectorJournal, model: DeployedModel) -> None:
        index = faiss.IndexFlatL2(model.dimension)
        texts = sidecar.row_texts
        for start in range(0, len(texts), _SHARD):
            index.add(journal.vectors(texts[start : start + _SHARD]))
        try:
            faiss.write_index(index, str(self._to_be_built))
        except RuntimeError as error:  # faiss' own error for a disk that is full
            raise OSError(str(error)) from error
        empty = faiss.serialize_index(faiss.IndexFlatL2(model.dimension)).nbytes
        if self._to_be_built.stat().st_size != empty + len(texts) * 4 * model.dimension:
            # Closing the file flushes the last bytes from a buffer, and faiss does not check that for an error.
            raise OSError(f"write error in {self._to_be_built}: its end is missing")
        _sync(self._to_be_built)
        os.replace(self._to_be_built, self._built)

    def _verify(self, model: DeployedModel) -> None:
        index = faiss.read_index(str(self._built))
        texts = read_sidecar(self.folder).row_texts
        if (index.ntotal, index.d) != (len(texts), model.dimension):
            raise DeploymentError(f"{self._built}: {index.ntotal} rows of {index.d}, expected {len(texts)} rows")
        rows = spread(len(texts), VERIFIED_CHUNKS)
        again = model.embed([texts[row] for row in rows])
        where = f"{self._built} (delete the .keys files beside it and run again)"  # else the next run reads them again
        require_vectors_of(rows, index_vectors(index, rows), again, where)
        _, found = index.search(again, 1)
        for row, nearest in zip(rows, found[:, 0], strict=True):
            is_twin = cosines(index_vectors(index, [nearest]), index_vectors(index, [row])).min() >= SAME_VECTOR
            if texts[nearest] != texts[row] and not is_twin:
                raise DeploymentError(f"{self._built}: a search for chunk {row} finds chunk {nearest}")

    def _sources(self) -> dict[str, str | None]:
        return {name: _sha256(self.folder / name) for name in INDEX_FILES}

    def _runs(self) -> list[dict[str, Any]]:
        """Return the runs on record, latest last: model, and sha256 of the source files and of the built index."""
        try:
            runs: list[dict[str, Any]] = json.loads(self._runs_path.read_bytes())
            for run in runs:
                _ = run["model"], run["built"], run["sources"][INDEX]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DeploymentError(
                f"{self._runs_path}: damaged ({type(error).__name__}: {error}); delete it, with which the way back is "
                "gone, and run again"
            ) from error
        return runs


def _sample(index: Any, sidecar: Sidecar, size: int) -> StoredSample:
    rows = spread(min(index.ntotal, len(sidecar.rows)), size)  # chunks may be deleted after an index was replaced
    doc_ids = [sidecar.rows[row] for row in rows]
    return StoredSample(doc_ids, [sidecar.texts[doc_id] for doc_id in doc_ids], index_vectors(index, rows))


def _sha256(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

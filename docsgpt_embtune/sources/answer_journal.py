"""A journal on disk of a language model's answers, so that none is paid for twice."""

import hashlib
import json
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.files import locked

_BEGINNING = b'{"key": "'  # of every line


class AnswerJournal:
    """Prompt -> answer for one model, one JSON line each.

    The key is a hash of the model's name and the whole prompt, so a changed chunk, prompt file or model is asked anew.
    A last line that a crash left incomplete is dropped at the next start.

    Args:
        path: The file; created if missing.
        model: The model's name.

    Raises:
        GenerationError: If another run is writing it, or the file is something else.
    """

    def __init__(self, path: Path, model: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._model = model
        self._writing = threading.Lock()
        with ExitStack() as opened:
            try:
                opened.enter_context(locked(path))
            except TimeoutError as error:
                raise GenerationError(f"{path}: another run is writing it; wait for it, or end it") from error
            self._file = opened.enter_context(path.open("a+b"))
            self._answers = self._recover()
            self._opened = opened.pop_all()

    def __contains__(self, prompt: str) -> bool:
        """Tell whether a prompt was answered."""
        return self._key(prompt) in self._answers

    def __getitem__(self, prompt: str) -> Any:
        """Return the answer to a prompt."""
        return self._answers[self._key(prompt)]

    def add(self, prompt: str, answer: Any) -> None:
        """Store an answer; it is on the disk when this returns."""
        key = self._key(prompt)
        line = json.dumps({"key": key, "answer": answer}).encode() + b"\n"
        with self._writing:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._answers[key] = answer

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered yet, in this run or before."""
        return not self._answers

    def close(self) -> None:
        """Release the file for other runs; remove it if it is empty."""
        if self._file.closed:
            return
        is_empty = not os.fstat(self._file.fileno()).st_size
        self._file.close()  # Windows removes no file that is open
        if is_empty:
            self.path.unlink(missing_ok=True)
        self._opened.close()

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._model}\0{prompt}".encode("utf-8", "surrogatepass")).hexdigest()

    def _recover(self) -> dict[str, Any]:
        """Read the answers; broken lines between them are skipped and kept: the answers around them were paid for."""
        self._file.seek(0)
        answers: dict[str, Any] = {}
        whole = others = 0
        line = b""
        for line in self._file:
            record = _record(line)
            answers |= record
            others += not record and bool(line.strip())
            whole += len(line) if record or line.endswith(b"\n") else 0
        is_torn = bool(line) and not line.endswith(b"\n")
        if others and not answers and not (is_torn and others == 1 and _begins_like_ours(line)):
            raise GenerationError(
                f"{self.path}: holds no answer of a language model, and stays as it is; choose another --out, or move "
                "the file away"
            )
        self._file.truncate(whole)
        if is_torn and _record(line):
            self._file.write(b"\n")  # an editor removed the final line break
        return answers


def _record(line: bytes) -> dict[str, Any]:
    """Read a line as key -> answer; empty if it is not a line of a journal."""
    try:
        record = json.loads(line)
        return {str(record["key"]): record["answer"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _begins_like_ours(line: bytes) -> bool:
    return line[: len(_BEGINNING)] == _BEGINNING[: len(line)]

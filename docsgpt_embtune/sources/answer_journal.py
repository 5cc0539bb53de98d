"""Answers of a language model as they come, on disk, so that none is paid for twice."""

import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Self

from docsgpt_embtune.errors import GenerationError


class AnswerJournal:
    """Prompt -> answer for one model, one JSON line each; what a crash tears off is dropped at the next start.

    The key is made of the model and the whole prompt: a chunk, a prompt file or a model that changed is asked anew.

    Args:
        path: The file; made if need be.
        model: The model's name.

    Raises:
        GenerationError: If another run is writing it.
    """

    def __init__(self, path: Path, model: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._model = model
        self._writing = threading.Lock()
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go with the process, however it ends
        except BlockingIOError as error:
            self._file.close()
            raise GenerationError(f"{path}: another run is writing it; wait for it, or end it") from error
        self._answers = self._recover()

    def __contains__(self, prompt: str) -> bool:
        """Tell whether a prompt was answered."""
        return self._key(prompt) in self._answers

    def __getitem__(self, prompt: str) -> Any:
        """Return the answer to a prompt."""
        return self._answers[self._key(prompt)]

    def add(self, prompt: str, answer: Any) -> None:
        """Keep an answer; it is on the disk when this returns."""
        key = self._key(prompt)
        line = json.dumps({"key": key, "answer": answer}).encode() + b"\n"
        with self._writing:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._answers[key] = answer

    def close(self) -> None:
        """Let another run have the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._model}\0{prompt}".encode("utf-8", "surrogatepass")).hexdigest()

    def _recover(self) -> dict[str, Any]:
        self._file.seek(0)
        answers = {}
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                answers[record["key"]] = record["answer"]
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        self._file.truncate(whole)
        return answers

"""The model behind the server: two bounded pools of threads, so that a question never waits behind an upload."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from docsgpt_embtune.deployment.serving import ServingModel
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.tokenizer import load_tokenizer

Result = TypeVar("Result")

DOCUMENTS_PER_CALL = 32  # of a long list: between two calls, another request's chunks get their turn


class GatewayModel:
    """A loaded model that many requests share.

    Args:
        serving: The model.
        threads: Questions that are computed at once; chunks have one thread of their own.
        width: Width of the answers: zeros are appended up to it; the model's own if not given. Distances and
            cosines of padded vectors are those of the vectors.

    Raises:
        ModelFolderError: If the folder has no `tokenizer.json`, or the width is less than the model's.
    """

    def __init__(self, serving: ServingModel, threads: int, width: int | None = None) -> None:
        self.dimension = width or serving.dimension
        if self.dimension < serving.dimension:
            raise ModelFolderError(
                f"{serving.folder}: vectors are {serving.dimension} wide and cannot be padded to {width}"
            )
        self._embeddings = serving.embeddings
        self._padding = [0.0] * (self.dimension - serving.dimension)
        self._tokenizer = _tokenizer(serving.folder)
        self._questions = ThreadPoolExecutor(threads, thread_name_prefix="question")
        self._documents = ThreadPoolExecutor(1, thread_name_prefix="documents")

    async def embed_question(self, text: str) -> list[list[float]]:
        """Embed one question: a list of one vector."""
        return self._padded([await self._in(self._questions, partial(self._embeddings.embed_query, text))])

    async def embed_documents(self, texts: Sequence[str], has_left: Callable[[], Awaitable[bool]]) -> list[list[float]]:
        """Embed chunks, in order, as long as there is a client to read the answer.

        Raises:
            ClientDisconnect: If it has left before the last of them.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), DOCUMENTS_PER_CALL):
            if start and await has_left():
                raise ClientDisconnect
            part = list(texts[start : start + DOCUMENTS_PER_CALL])
            vectors += await self._in(self._documents, partial(self._embeddings.embed_documents, part))
        return self._padded(vectors)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count the model's tokens, those beyond what it reads included."""
        encodings = self._tokenizer.encode_batch_fast([encodable(text) for text in texts])
        return sum(len(encoding.ids) for encoding in encodings)

    def close(self) -> None:
        """Let the threads finish what they have, and end."""
        self._questions.shutdown()
        self._documents.shutdown()

    async def _in(self, pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    def _padded(self, vectors: list[list[float]]) -> list[list[float]]:
        return [vector + self._padding for vector in vectors] if self._padding else vectors


def _tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(f"{folder}: has no tokenizer.json; save the model with a fast tokenizer")
    return load_tokenizer(folder)

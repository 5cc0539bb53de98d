"""A model behind a server, as the baseline of a check: what a deployment with EMBEDDINGS_BASE_URL has in use."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.evaluation.comparison import Side
from docsgpt_embtune.openai_client import OpenAIClient, RefusedRequestError
from docsgpt_embtune.urls import without_credentials
from docsgpt_embtune.wording import Say, counted, silent

KEY_VARIABLE = "EMBEDDINGS_KEY"  # DocsGPT's own
_FORM = "URL#MODEL"
_SCHEMES = ("http://", "https://")
_ANY_TEXT = "How wide are your vectors?"
_CHUNKS_PER_REQUEST = 32  # what text-embeddings-inference takes at most, unless it is told otherwise
_REQUESTS_AT_ONCE = 4


class RemoteEmbeddings:
    """Embed with a server as DocsGPT does: a question as a string, chunks as a list.

    Args:
        client: Of the server's `/v1/embeddings`.

    Attributes:
        dimension: Width of the vectors, by the server's first answer.

    Raises:
        EvaluationError: If the server cannot be asked.
    """

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client
        self.dimension = len(self.embed_query(_ANY_TEXT))

    def embed_query(self, text: str) -> list[float]:
        """Embed one question: a list of `dimension` floats."""
        return self._ask(encodable(text))[0]

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks: one list of `dimension` floats each, in order."""
        sent = [encodable(text) for text in texts]
        batches = [sent[start : start + _CHUNKS_PER_REQUEST] for start in range(0, len(sent), _CHUNKS_PER_REQUEST)]
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            try:
                answers = list(pool.map(self._ask, batches))
            except BaseException:
                self._client.stop()  # or those that wait would go on asking
                raise
        return [vector for vectors in answers for vector in vectors]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, asked: str | list[str]) -> list[list[float]]:
        texts = [asked] if isinstance(asked, str) else asked

        def vectors_in(content: Any) -> list[list[float]]:
            ordered = sorted(content["data"], key=lambda each: each["index"])
            vectors = [[float(number) for number in each["embedding"]] for each in ordered]
            if len(vectors) != len(texts):
                raise ValueError(f"{len(vectors)} vectors for {len(texts)} texts")
            return vectors

        try:
            return self._client.post({"input": asked}, vectors_in)
        except RefusedRequestError as error:
            first = texts[0]
            raise EvaluationError(
                f"{self._client.label}: {error}, for {counted(len(texts), 'text')} (first: {first[:60]!r}, "
                f"{len(first):,} characters); it may take no text as long as this: cut the chunks smaller, or let the "
                "server truncate"
            ) from error


@dataclass(frozen=True)
class RemoteModel:
    """A model that a server has, for one side of a comparison.

    Attributes:
        url: Of the server, up to but without `/v1`.
        model: What the server calls it.
    """

    url: str
    model: str

    @classmethod
    def named(cls, name: str) -> Self:
        """Read URL#MODEL, the URL as EMBEDDINGS_BASE_URL has it, or with `/v1` at its end.

        Raises:
            EvaluationError: If there is no model in it.
        """
        url, _, model = name.partition("#")
        if not model:
            raise EvaluationError(
                f"{without_credentials(name)}: names no model; give {_FORM}, e.g. http://localhost:8000#my-model"
            )
        return cls(url.rstrip("/").removesuffix("/v1"), model)

    @property
    def name(self) -> str:
        """What it may be called where others read it."""
        return f"{without_credentials(self.url)}#{self.model}"

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over where its vectors come from: what decides them is not seen from here."""
        return hashlib.sha256(f"{self.url}\n{self.model}".encode()).hexdigest()

    def load(self, say: Say = silent) -> RemoteEmbeddings:
        """Return what embeds with it, to be closed; the key, if any, comes from EMBEDDINGS_KEY.

        Args:
            say: Takes a line of plain text where the server gives no answer and is asked again.
        """
        client = OpenAIClient(
            f"{self.url}/v1/embeddings",
            self.model,
            key=os.environ.get(KEY_VARIABLE),
            settings=f"--baseline {_FORM} and the key in {KEY_VARIABLE}",
            error=EvaluationError,
            say=say,
        )
        try:
            return RemoteEmbeddings(client)
        except BaseException:
            client.close()
            raise

    def side(self, model: RemoteEmbeddings, cache: Path | None) -> Side:
        """Put it into a comparison."""
        return Side(model, self.fingerprint, cache)


def is_remote(name: str) -> bool:
    """Tell whether a model's name is a server's."""
    return name.startswith(_SCHEMES)

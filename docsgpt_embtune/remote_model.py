"""A model behind a server, as used by a deployment with EMBEDDINGS_BASE_URL.

It can take part in a check, and a query adapter can be applied to its question vectors. The folder of such an adapter
holds no model. Its `embtune.json` names the server and records the vector of a probe text, by which another model on
that server is detected.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from docsgpt_embtune.adapter import QueryAdapter, load_query_adapter
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import RefusedTextsError, RemoteModelError
from docsgpt_embtune.manifest import Manifest, ServerRecord, read_manifest
from docsgpt_embtune.model_folder import adapts_a_server, verify_any
from docsgpt_embtune.openai_client.client import (
    USUAL_PATIENCE,
    OpenAIClient,
    Patience,
    RefusedRequestError,
    UnansweredRequestError,
)
from docsgpt_embtune.serving.keywords import Keywords, load_keywords
from docsgpt_embtune.urls import is_url, without_credentials
from docsgpt_embtune.vectors import SAME_VECTOR_IN_INT8, EmbedTexts, Vectors, cosines
from docsgpt_embtune.wording import Say, counted, silent

KEY_VARIABLE = "EMBEDDINGS_KEY"  # DocsGPT's own
# Current address of the server that an adapter was made for, if it differs: from a container, or with a password.
ADDRESS_VARIABLE = "EMBTUNE_UPSTREAM"
_FORM = "URL#MODEL"
_PROBE = "How wide are your vectors?"
PROBED_EVERY = 60.0  # seconds
_LENGTHS_DIFFER = 0.01  # more than rounding does
_DIGITS = 6  # decimals of the probe's vector in the manifest
_CHUNKS_PER_REQUEST = 32  # text-embeddings-inference's default maximum
_REQUESTS_AT_ONCE = 4
_SHOWN = 8  # indexes of a wrong answer
_FOR_CLIENTS = Patience(attempts=3, longest_wait=20.0, silence=45.0)  # a client is waiting: DocsGPT for 180 s


@dataclass(frozen=True)
class Embedded:
    """Vectors and the tokens that they cost.

    Attributes:
        vectors: One for each text, in order.
        tokens: Tokens of all texts together, as the model's tokenizer counts; 0 if a server does not report them.
    """

    vectors: list[list[float]]
    tokens: int


class RemoteEmbeddings:
    """Embed with a server as DocsGPT does: a question as a string, chunks as a list. `connect` asks one for its probe.

    Args:
        client: Client for the server's `/v1/embeddings`.
        probe: The server's vector of the probe text.
        adapter: Applied to the server's question vectors.
        keywords: Appended to the vectors of questions and chunks.
        refuse_another: Raises if the server's vector of the probe text is another model's. Called before a request if
            the last check is more than a minute old.

    Attributes:
        probe: The server's vector of a fixed text, which identifies its model.
        dimension: Width of the vectors.
    """

    def __init__(
        self,
        client: OpenAIClient,
        probe: list[float],
        adapter: QueryAdapter | None = None,
        keywords: Keywords | None = None,
        refuse_another: Callable[[Sequence[float]], None] | None = None,
    ) -> None:
        self._client = client
        self._refuse_another = refuse_another
        self._adapter = adapter
        self._keywords = keywords
        self.probe = probe
        self._probed = time.monotonic()
        self.dimension = len(probe) + (keywords.width if keywords else 0)
        self._chunks_as_they_come: EmbedTexts = self._ask_for_all

    @classmethod
    def connect(
        cls,
        client: OpenAIClient,
        adapter: QueryAdapter | None = None,
        keywords: Keywords | None = None,
        refuse_another: Callable[[Sequence[float]], None] | None = None,
    ) -> Self:
        """Ask a server for the probe's vector, and check that it is the model's.

        Raises:
            RemoteModelError: If the server cannot be queried, or another model answers there.
        """
        probe = _ask(client, _PROBE).vectors[0]
        if refuse_another is not None:
            refuse_another(probe)
        return cls(client, probe, adapter, keywords, refuse_another)

    def embed_query(self, text: str) -> list[float]:
        """Embed one question: a list of `dimension` floats."""
        return self.ask_question(text).vectors[0]

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed chunks: one list of `dimension` floats each, in order."""
        vectors = self._chunks_as_they_come(texts)
        return self._beside_keywords(Embedded(vectors, 0), texts, Keywords.of_documents).vectors if vectors else []

    def remember_chunks(self, remembered: Callable[[EmbedTexts], EmbedTexts]) -> None:
        """Cache the server's own chunk vectors.

        Args:
            remembered: Wraps a function that embeds chunks, (texts) -> vectors, in one that uses a cache.
        """
        self._chunks_as_they_come = remembered(self._ask_for_all)

    def _ask_for_all(self, texts: Sequence[str]) -> list[list[float]]:
        batches = [texts[start : start + _CHUNKS_PER_REQUEST] for start in range(0, len(texts), _CHUNKS_PER_REQUEST)]
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            try:
                answers = list(pool.map(self._ask, batches))
            except BaseException:
                self._client.stop()  # else the waiting requests would still be sent
                raise
        return [vector for answer in answers for vector in answer.vectors]

    def ask_question(self, text: str) -> Embedded:
        """Embed one question with one request, and apply adapter and keywords.

        Raises:
            RefusedTextsError: If the server does not accept the question.
            RemoteModelError: If it does not answer.
        """
        self._probe_again()
        answer = self._ask(text)
        if self._adapter is not None:
            answer = Embedded([self._adapter(vector) for vector in answer.vectors], answer.tokens)
        return self._beside_keywords(answer, [text], Keywords.of_questions)

    def ask_chunks(self, texts: Sequence[str]) -> Embedded:
        """Embed chunks with one request, and append keywords.

        Raises:
            RefusedTextsError: If the server does not accept these texts.
            RemoteModelError: If it does not answer.
        """
        self._probe_again()
        return self._beside_keywords(self._ask(texts), texts, Keywords.of_documents)

    def _probe_again(self) -> None:
        """Check at most once a minute that no other model of the same width has replaced the server's."""
        if self._refuse_another is None or time.monotonic() < self._probed + PROBED_EVERY:
            return
        self._refuse_another(self._ask(_PROBE).vectors[0])
        self._probed = time.monotonic()

    def _beside_keywords(
        self, answer: Embedded, texts: Sequence[str], part_of: Callable[[Keywords, Sequence[str]], Vectors]
    ) -> Embedded:
        if self._keywords is None:
            return answer
        part = part_of(self._keywords, texts)
        both = self._keywords.beside(np.array(answer.vectors, dtype=np.float32), part)
        return Embedded(both.tolist(), answer.tokens)

    def _ask(self, asked: str | Sequence[str]) -> Embedded:
        return _ask(self._client, asked, len(self.probe))

    def stop(self) -> None:
        """Start no further attempts at failed requests."""
        self._client.stop()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@dataclass(frozen=True)
class RemoteModel:
    """A server's model.

    Attributes:
        url: The server's address, without `/v1`.
        model: The server's name for the model.
        folder: Folder of the query adapter or keywords made for it; None without either.
    """

    url: str
    model: str
    folder: Path | None = None

    @classmethod
    def named(cls, name: str) -> Self:
        """Parse URL#MODEL, where URL is as in EMBEDDINGS_BASE_URL, with or without a final `/v1`.

        Raises:
            RemoteModelError: If it is not a URL, has a query, or names no model.
        """
        url, _, model = name.partition("#")
        if not is_url(url):
            raise RemoteModelError(
                f"{without_credentials(name)}: does not begin with http:// or https://; give {_FORM}"
            )
        if not model:
            raise RemoteModelError(
                f"{without_credentials(name)}: names no model; give {_FORM}, e.g. http://localhost:8000#my-model"
            )
        return cls(_address(url), model)

    @classmethod
    def adapted_in(cls, folder: Path) -> Self:
        """Read from a query adapter's folder which model it was made for; EMBTUNE_UPSTREAM overrides the address.

        Raises:
            ModelFolderError: If its manifest cannot be read.
        """
        server = read_manifest(folder)["server"]
        moved = os.environ.get(ADDRESS_VARIABLE)
        url = _address(moved, f"{ADDRESS_VARIABLE}=") if moved else _address(server["url"])
        return cls(url, server["model"], folder.resolve())

    @classmethod
    def found(cls, name: str | Path) -> Self | None:
        """Find a server's model by URL#MODEL, or by the folder of a query adapter for it; None for any other model.

        Raises:
            RemoteModelError: If a URL names no model.
            ModelFolderError: If a folder's manifest cannot be read.
        """
        if is_url(str(name)):
            return cls.named(str(name))
        folder = Path(name).expanduser()
        return cls.adapted_in(folder) if adapts_a_server(folder) else None

    @property
    def name(self) -> str:
        """Name for display: the adapter's folder, or the address."""
        return str(self.folder) if self.folder else self.address

    @property
    def as_it_is(self) -> Self:
        """The server's model without adapter and keywords."""
        return type(self)(self.url, self.model)

    @property
    def address(self) -> str:
        """URL#MODEL, without credentials."""
        return f"{without_credentials(self.url)}#{self.model}"

    @property
    def document_fingerprint(self) -> str:
        """Hex sha256 that identifies the chunk vectors, by the server's address, its model and any keywords.

        The server's weights cannot be seen from here. Credentials are left out, because they may change, and must not
        be guessable from a folder that is passed on.
        """
        if self.folder is not None:
            return self.manifest["server"]["document_fingerprint"]
        return hashlib.sha256(f"{without_credentials(self.url)}\n{self.model}".encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Like `document_fingerprint`, but also covers whatever changes question vectors."""
        if self.folder is None:
            return self.document_fingerprint
        return hashlib.sha256(f"{self.document_fingerprint} {self.manifest['fingerprint']}".encode()).hexdigest()

    @cached_property
    def manifest(self) -> Manifest:
        """Manifest of the adapter's folder; empty without one."""
        return read_manifest(self.folder) if self.folder else {}

    def load(self, say: Say = silent, *, key: str | None = None, for_clients: bool = False) -> RemoteEmbeddings:
        """Connect to the server; the caller closes the result.

        Args:
            say: Takes a line of plain text when the server does not answer and is retried.
            key: The server's key; EMBEDDINGS_KEY's if not given.
            for_clients: Whether somebody waits for each answer, so that retries must be short.

        Raises:
            ModelFolderError: If the adapter's folder is not as it was written.
            RemoteModelError: If the server cannot be queried, or another model than the adapter's answers there.
        """
        address = f"{ADDRESS_VARIABLE}, if set," if self.folder else _FORM
        client = OpenAIClient(
            f"{self.url}/v1/embeddings",
            self.model,
            key=key or os.environ.get(KEY_VARIABLE),
            settings=f"{address} and the key in {KEY_VARIABLE}",
            error=RemoteModelError,
            patience=_FOR_CLIENTS if for_clients else USUAL_PATIENCE,
            say=say,
        )
        try:
            if self.folder is None:
                return RemoteEmbeddings.connect(client)
            adapter = load_query_adapter(self.folder, verify_any(self.folder))
            return RemoteEmbeddings.connect(client, adapter, load_keywords(self.folder), self._refuse_another_model)
        except BaseException:
            client.close()
            raise

    @property
    def settings(self) -> dict[str, str]:
        """Lines of `.env` that make DocsGPT use the server."""
        return {"EMBEDDINGS_BASE_URL": self.url, "EMBEDDINGS_NAME": self.model}

    @property
    def needs_reembedding(self) -> bool:
        """Whether keywords are appended to the server's vectors, so that chunks stored without them do not fit."""
        return "keywords" in self.manifest

    def record(self, probe: Sequence[float], document_fingerprint: str) -> ServerRecord:
        """Return the manifest's record of the server.

        Args:
            probe: The server's vector of the probe text.
            document_fingerprint: Identifies the chunk vectors, with any keywords.
        """
        return {
            "url": without_credentials(self.url),
            "model": self.model,
            "dimension": len(probe),
            "probe": [round(number, _DIGITS) for number in probe],
            "document_fingerprint": document_fingerprint,
        }

    def _refuse_another_model(self, probe: Sequence[float]) -> None:
        before = self.manifest["server"]["probe"]
        if len(probe) != len(before):
            difference = f"{len(probe)} numbers in a vector, not {len(before)}"
        else:
            now, then = (np.array([vector], dtype=np.float32) for vector in (probe, before))
            cosine, length = float(cosines(now, then)[0]), float(np.linalg.norm(now))
            if cosine >= SAME_VECTOR_IN_INT8 and abs(length - float(np.linalg.norm(then))) <= _LENGTHS_DIFFER:
                return
            difference = f"cosine {cosine:.3f} of two vectors of one text, length {length:.3f}"
        raise RemoteModelError(
            f"{self.address}: not the model that {self.folder} was made for ({difference}), so stored chunks do not "
            "fit it either; serve the former one there, or upload the documents again and run embtune adapt again"
        )


def _ask(client: OpenAIClient, asked: str | Sequence[str], width: int | None = None) -> Embedded:
    """Embed texts with one request.

    Args:
        client: Client for the server.
        asked: One text, or several.
        width: Width that the vectors must have; None takes them as they come.

    Raises:
        RefusedTextsError: If the server does not accept these texts.
        RemoteModelError: If it does not answer.
    """
    texts = [encodable(text) for text in ([asked] if isinstance(asked, str) else asked)]

    def read(content: Any) -> Embedded:
        entries = content["data"]
        vectors = np.array([_numbers(each["embedding"]) for each in entries], dtype=np.float64)  # of one width
        expected = width or vectors.shape[-1]
        if not expected or vectors.shape != (len(texts), expected) or not np.isfinite(vectors).all():
            given = f"{len(vectors)} of {vectors.shape[-1]} numbers"
            raise ValueError(f"vectors: {given}, wanted {len(texts)} of {expected or 'any'}, each number finite")
        vectors = vectors[_places(entries)]
        return Embedded(vectors.tolist(), int((content.get("usage") or {}).get("prompt_tokens") or 0))

    try:
        return client.post({"input": texts[0] if isinstance(asked, str) else texts}, read)
    except RefusedRequestError as error:
        longest = max(texts, key=len)
        refused = RemoteModelError if isinstance(error, UnansweredRequestError) else RefusedTextsError
        raise refused(
            f"{client.label}: {error}, for {counted(len(texts), 'text')} (the longest: {longest[:60]!r}, "
            f"{len(longest):,} characters); it may take no text as long as this: cut the chunks smaller, or let "
            "the server truncate"
        ) from error


def _numbers(embedding: Any) -> Any:
    """Decode a vector that comes as base64 of little-endian float32; return a list of numbers as it is."""
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4") if isinstance(embedding, str) else embedding


def _places(entries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return for each text the place of its entry, by `index`, or the order in which they came if none has one."""
    indexes = [each.get("index") for each in entries]
    if all(index is None for index in indexes):
        return list(range(len(indexes)))
    place_of = {int(index): place for place, index in enumerate(indexes) if index is not None}
    if sorted(place_of) != list(range(len(indexes))):
        raise ValueError(f"the answer's indexes are {indexes[:_SHOWN]}")
    return [place_of[number] for number in range(len(indexes))]


def _address(url: str, name: str = "") -> str:
    """Return a server's address without a final `/v1`; the name of its setting is for the message."""
    if "?" in url:
        raise RemoteModelError(
            f"{name}{without_credentials(url)}: has a query (?...), which no request could keep behind /v1; leave it "
            "out"
        )
    return url.rstrip("/").removesuffix("/v1")

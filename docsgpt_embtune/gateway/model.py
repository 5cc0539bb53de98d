"""The model behind the gateway: two bounded pools of threads, so that a question never waits behind an upload."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol, TypeVar

from starlette.requests import ClientDisconnect

from docsgpt_embtune.deployment.deployed_model import FolderModel, load_deployed_model
from docsgpt_embtune.embeddings import QUESTION_CACHE, encodable
from docsgpt_embtune.errors import ModelFolderError, RefusedTextsError, RemoteModelError
from docsgpt_embtune.gateway.protocol import RequestError
from docsgpt_embtune.model_folder import adapts_a_server, fingerprint
from docsgpt_embtune.openai_client.client import UnansweredRequestError
from docsgpt_embtune.remote_model import Embedded, RemoteEmbeddings, RemoteModel
from docsgpt_embtune.tokenizer import load_tokenizer
from docsgpt_embtune.wording import Say, silent

Result = TypeVar("Result")

LONGEST_QUESTION = 10_000  # characters; a longer question takes long to tokenise, so it goes to the documents' pool
DOCUMENTS_PER_CALL = 32  # a long list is embedded in several calls, between which other requests get their turn
_COUNTED_AT_ONCE = 100_000  # characters; a word that is parted between two pieces may count for one token more
_BEHIND = "the server behind this one"
_NO_ANSWER = f"{_BEHIND} gives no answer that can be used; try again later: this server's log says why"


class ServedModel(Protocol):
    """A model that can be served.

    Attributes:
        name: The model's name for clients, unless the operator gives another.
        label: The model's location, for the operator.
        fingerprint: Identifies the model.
        dimension: Width of the vectors.
        question_threads: Number of questions worth computing at once.
        document_threads: Number of batches of chunks worth computing at once.
        upstream: The server behind this one; None if the model is loaded in this process.
        needs_reembedding: Whether chunks that were embedded with the upstream server must be embedded again.
    """

    name: str
    label: str
    fingerprint: str
    dimension: int
    question_threads: int
    document_threads: int
    upstream: str | None
    needs_reembedding: bool

    def embed_question(self, text: str) -> Embedded:
        """Embed one question."""

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed chunks, in order."""

    def close(self) -> None:
        """Stop without waiting for answers that are still to come."""


class OwnModel:
    """A model that is loaded in this process.

    Args:
        serving: The loaded model.

    Raises:
        ModelFolderError: If the folder has no `tokenizer.json`.
    """

    question_threads: int = 4
    document_threads: int = 1
    upstream: str | None = None
    needs_reembedding: bool = False

    def __init__(self, serving: FolderModel) -> None:
        if not (serving.folder / "tokenizer.json").is_file():
            raise ModelFolderError(f"{serving.folder}: has no tokenizer.json; save the model with a fast tokenizer")
        self.name = serving.folder.name
        self.label = str(serving.folder)
        self.fingerprint = fingerprint(serving.folder)
        self.dimension = serving.dimension
        self._embeddings = serving.embeddings
        self._tokenizer = load_tokenizer(serving.folder)
        self._embeddings.embed_query("The first call is slow: it starts the threads.")

    def embed_question(self, text: str) -> Embedded:
        """Embed one question."""
        return Embedded([self._embeddings.embed_query(text)], self._count_tokens([text]))

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed chunks, in order."""
        return Embedded(self._embeddings.embed_documents(texts), self._count_tokens(texts))

    def close(self) -> None:
        """Do nothing: running computations end by themselves."""

    def _count_tokens(self, texts: Sequence[str]) -> int:
        """Count the texts' tokens, including those that the model cuts off.

        A long text is counted in pieces, since a tokenizer takes 150 MB for a megabyte.
        """
        special: int = self._tokenizer.num_special_tokens_to_add(False)
        pieces = (
            text[start : start + _COUNTED_AT_ONCE]
            for text in map(encodable, texts)
            for start in range(0, len(text), _COUNTED_AT_ONCE)
        )
        counted = (self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids for piece in pieces)
        return sum(map(len, counted)) + special * len(texts)


class RelayedModel:
    """An upstream server's model behind a query adapter or keywords; only keywords change the vectors of chunks.

    Args:
        remote: The upstream server's model, with the folder of the adapter or the keywords.
        server: The same, loaded.
        say: Takes a line of plain text if the upstream server gives no usable answer. Its address, and what to do, are
            for this server's operator and not for the clients.
    """

    question_threads: int = 32  # they wait for the network and compute nothing
    document_threads: int = 4

    def __init__(self, remote: RemoteModel, server: RemoteEmbeddings, say: Say = silent) -> None:
        self.name = remote.model
        self.label = remote.name
        self.fingerprint = remote.fingerprint
        self.dimension = server.dimension
        self.upstream: str | None = remote.address
        self.needs_reembedding = remote.needs_reembedding
        self._server = server
        self._say = say
        # Cached, since DocsGPT embeds a question once for each source that it searches.
        self._ask_question = lru_cache(maxsize=QUESTION_CACHE)(server.ask_question)

    def embed_question(self, text: str) -> Embedded:
        """Embed one question."""
        return self._asked(self._ask_question, text)

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed at most `DOCUMENTS_PER_CALL` chunks, in order, in one request."""
        return self._asked(self._server.ask_chunks, texts)

    def close(self) -> None:
        """Stop without waiting for outstanding answers."""
        self._server.stop()

    def _asked(self, ask: Callable[[Result], Embedded], asked: Result) -> Embedded:
        try:
            return ask(asked)
        except RefusedTextsError as error:
            raise RequestError(400, _said_of_texts(error), param="input") from error
        except RemoteModelError as error:
            self._say(str(error))
            said = _said_of_texts(error) if isinstance(error.__cause__, UnansweredRequestError) else _NO_ANSWER
            raise RequestError(502, said, code="bad_gateway") from error


def _said_of_texts(error: RemoteModelError) -> str:
    """Return an error message for clients, without the upstream server's address, with which it begins."""
    return f"{_BEHIND}: {str(error).partition(': ')[2]}"


@contextmanager
def served_model(name: str, say: Say = silent) -> Iterator[ServedModel]:
    """Open a model for the duration of the context.

    Args:
        name: A model folder, a hub name, `bundled`, or the folder of an adapter or keywords for a server's model.
        say: Takes a line of plain text if the upstream server gives no answer and is asked again, or given up.

    Raises:
        ModelFolderError: If there is no such model, or a folder is incomplete.
        RemoteModelError: If the upstream server cannot be asked.
    """
    folder = Path(name).expanduser()
    if adapts_a_server(folder):
        remote = RemoteModel.adapted_in(folder)
        with closing(remote.load(say, for_clients=True)) as server:
            yield RelayedModel(remote, server, say)
    else:
        yield OwnModel(load_deployed_model(name))


class GatewayModel:
    """A model that many requests share.

    Args:
        served: The model.
        threads: Number of questions computed at once; as many as suit the model if not given.
        width: Width to which vectors are padded with zeros; the model's own if not given. Padding changes neither
            distances nor cosines.

    Raises:
        ModelFolderError: If the width is less than the model's.
    """

    def __init__(self, served: ServedModel, threads: int | None = None, width: int | None = None) -> None:
        self.dimension = width or served.dimension
        if self.dimension < served.dimension:
            raise ModelFolderError(f"{served.label}: {served.dimension} wide, which cannot be padded to {width}")
        self._served = served
        self._padding = [0.0] * (self.dimension - served.dimension)
        self._questions = ThreadPoolExecutor(threads or served.question_threads, thread_name_prefix="question")
        self._documents = ThreadPoolExecutor(served.document_threads, thread_name_prefix="documents")

    async def embed_question(self, text: str) -> Embedded:
        """Embed one question."""
        pool = self._questions if len(text) <= LONGEST_QUESTION else self._documents
        return self._padded(await self._in(pool, partial(self._served.embed_question, text)))

    async def embed_documents(self, texts: Sequence[str], has_left: Callable[[], Awaitable[bool]]) -> Embedded:
        """Embed chunks, in order, as long as the client is connected.

        Args:
            texts: The chunks.
            has_left: Tells whether the client has disconnected.

        Raises:
            ClientDisconnect: If the client disconnects before the last chunks are embedded.
        """
        vectors: list[list[float]] = []
        tokens = 0
        for start in range(0, len(texts), DOCUMENTS_PER_CALL):
            if start and await has_left():
                raise ClientDisconnect
            part = list(texts[start : start + DOCUMENTS_PER_CALL])
            embedded = await self._in(self._documents, partial(self._served.embed_documents, part))
            vectors += embedded.vectors
            tokens += embedded.tokens
        return self._padded(Embedded(vectors, tokens))

    def close(self) -> None:
        """Start no further work, and wait for no thread, since nobody reads its result any more."""
        self._served.close()
        for pool in (self._questions, self._documents):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    def _padded(self, embedded: Embedded) -> Embedded:
        if not self._padding:
            return embedded
        return Embedded([vector + self._padding for vector in embedded.vectors], embedded.tokens)

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
from docsgpt_embtune.openai_client import UnansweredRequestError
from docsgpt_embtune.remote_model import Embedded, RemoteEmbeddings, RemoteModel
from docsgpt_embtune.tokenizer import load_tokenizer
from docsgpt_embtune.wording import Say, silent

Result = TypeVar("Result")

LONGEST_QUESTION = 10_000  # characters; to cut a longer one into tokens takes long, and is done among the documents
DOCUMENTS_PER_CALL = 32  # of a long list: between two calls, another request's chunks get their turn
_BEHIND = "the server behind this one"
_NO_ANSWER = f"{_BEHIND} gives no answer that can be used; try again later: this server's log says why"


class ServedModel(Protocol):
    """What can be served.

    Attributes:
        name: What clients call it, unless the operator names it otherwise.
        label: Where it is, for the operator.
        fingerprint: Identifies it.
        dimension: Width of its vectors.
        question_threads: Questions that are worth computing at once.
        document_threads: As `question_threads`, batches of chunks.
        upstream: The server that is asked; None where this process has the model.
        needs_reembedding: Whether that server's own vectors of chunks do not fit what is served.
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
    """A model of this machine.

    Args:
        serving: It.

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
        """Wait for nothing: what computes ends by itself."""

    def _count_tokens(self, texts: Sequence[str]) -> int:
        """Count the model's tokens, those beyond what it reads included."""
        encodings = self._tokenizer.encode_batch_fast([encodable(text) for text in texts])
        return sum(len(encoding.ids) for encoding in encodings)


class RelayedModel:
    """A server's model and what goes before it: chunks come back as that server made them, unless keywords join them.

    Args:
        remote: The model, with an adapter's folder.
        server: It, loaded.
        say: Takes a line of plain text where that server cannot be asked: its address, and what to do, are for whoever
            sees to this one, and not for the clients.
    """

    question_threads: int = 32  # which wait for a network, and compute nothing
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
        # DocsGPT embeds a question once for each source that it searches.
        self._ask_question = lru_cache(maxsize=QUESTION_CACHE)(server.ask_question)

    def embed_question(self, text: str) -> Embedded:
        """Embed one question."""
        return self._asked(self._ask_question, text)

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed chunks, in order, in one request: no more than `DOCUMENTS_PER_CALL`."""
        return self._asked(self._server.ask_chunks, texts)

    def close(self) -> None:
        """Wait for no answer that is not there."""
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
    """Return what is wrong with texts without the server's address, which the message begins with."""
    return f"{_BEHIND}: {str(error).partition(': ')[2]}"


@contextmanager
def served_model(name: str, say: Say = silent) -> Iterator[ServedModel]:
    """Open a model folder, a hub name, `bundled`, or the folder of what goes before a server's model.

    Args:
        name: What clients call the model.
        say: Takes a line of plain text where a server gives no answer and is asked again, or is given up.

    Raises:
        ModelFolderError: If it is nowhere, or a folder is not whole.
        RemoteModelError: If the server cannot be asked.
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
        threads: Questions that are computed at once; as many as suit the model if not given.
        width: Width of the answers: zeros are appended up to it; the model's own if not given. Distances and
            cosines of padded vectors are those of the vectors.

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
        """Embed chunks, in order, as long as there is a client to read the answer.

        Raises:
            ClientDisconnect: If it has left before the last of them.
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
        """Begin nothing more, and wait for no thread: nobody reads what it may yet have to say."""
        self._served.close()
        for pool in (self._questions, self._documents):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    def _padded(self, embedded: Embedded) -> Embedded:
        if not self._padding:
            return embedded
        return Embedded([vector + self._padding for vector in embedded.vectors], embedded.tokens)

"""OpenAI's embeddings protocol: the format of requests, answers and errors."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class RequestError(Exception):
    """An error answer to a request, in the format that OpenAI's clients read.

    Args:
        status: HTTP status code.
        message: What is wrong, with the value, and what to do.
        param: The field of the request that is wrong; None if the error is not about a field.
        code: A machine-readable error code.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the error in OpenAI's format."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A parsed request for embeddings.

    Attributes:
        texts: The texts to embed, at least one.
        is_question: Whether the input was a single string: DocsGPT sends a question as a string, and chunks as a list.
        as_base64: Whether to return vectors as base64 of little-endian float32 instead of lists of numbers.
    """

    texts: Sequence[str]
    is_question: bool
    as_base64: bool


@dataclass(frozen=True)
class Offer:
    """The model and the limits that a server offers.

    Attributes:
        name: The model's name.
        dimension: Width of its vectors.
        max_texts: Most texts in one request.
    """

    name: str
    dimension: int
    max_texts: int


def parse_request(body: bytes, offer: Offer) -> EmbeddingsRequest:
    """Read the body of `POST /v1/embeddings`.

    Raises:
        RequestError: If the body is not a valid request, or asks for something that this server does not offer.

    Source:
        OpenAI's API reference, "Create embeddings".
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(400, "the body is no JSON object; send {'input': …}")
    refuse_other_model(content.get("model"), offer)
    _refuse_other_width(content.get("dimensions"), offer)
    encoding_format = content.get("encoding_format") or "float"
    if encoding_format not in ("float", "base64"):
        raise RequestError(400, f"encoding_format {encoding_format!r}: 'float' or 'base64'", param="encoding_format")
    given = content.get("input")
    return EmbeddingsRequest(_texts(given, offer), isinstance(given, str), encoding_format == "base64")


def refuse_other_model(model: Any, offer: Offer) -> None:
    """Raise RequestError if a client names another model than the one that is served."""
    # DocsGPT sends its EMBEDDINGS_NAME, which may be the folder's path in another container.
    if model in (None, "") or (isinstance(model, str) and _last_part(model) == _last_part(offer.name)):
        return
    raise RequestError(
        404,
        f"model {model!r} is not served here, {offer.name!r} is; name that one as DocsGPT's EMBEDDINGS_NAME",
        param="model",
        code="model_not_found",
    )


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _refuse_other_width(dimensions: Any, offer: Offer) -> None:
    if dimensions is not None and dimensions != offer.dimension:
        raise RequestError(
            400,
            f"dimensions {dimensions!r}: {offer.name!r} gives {offer.dimension} and no other; leave it out",
            param="dimensions",
        )


def _texts(given: Any, offer: Offer) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, "input must be a string, or a list of strings that is not empty", param="input")
    if len(texts) > offer.max_texts:
        raise RequestError(
            413, f"input has {len(texts)} texts, at most {offer.max_texts} are taken at once; send them in parts"
        )
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise RequestError(
                400,
                f"input[{position}] is {_kind_of(text)} and no string; token numbers of another model's tokenizer mean "
                "nothing to this one: LangChain's OpenAIEmbeddings sends text with check_embedding_ctx_length=False",
                param="input",
            )
    return texts


def _kind_of(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def answer(request: EmbeddingsRequest, vectors: Sequence[Sequence[float]], tokens: int, name: str) -> bytes:
    """Return the JSON answer in OpenAI's format.

    Args:
        request: The request that is answered.
        vectors: One vector per text, in order.
        tokens: Total number of tokens of the texts, counted by the model's tokenizer.
        name: The model's name.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if request.as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": name, "usage": usage}).encode()


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()

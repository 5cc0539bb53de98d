"""The model that stored chunks are embedded with, and a fast way to embed many of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.embeddings import StockEmbeddings, TunedEmbeddings, encodable, serving_device
from docsgpt_embtune.errors import DeploymentError, ModelFolderError
from docsgpt_embtune.evaluation.truncation import share_read
from docsgpt_embtune.manifest import read_manifest
from docsgpt_embtune.model_folder import document_fingerprint, is_tuned_folder
from docsgpt_embtune.precision import Precision, resolve_precision
from docsgpt_embtune.serving.graphs import graphs_of, multiplies_int8
from docsgpt_embtune.serving.reading import Encode, Reading, document_encoder
from docsgpt_embtune.static_model import tokens_read
from docsgpt_embtune.urls import shown
from docsgpt_embtune.vectors import SAME_VECTOR, SAME_VECTOR_IN_INT8, EmbeddingModel, Vectors, cosines

EmbedInRows = Callable[[Sequence[str]], Vectors]

BATCH_SIZE = 8  # texts per batch, where few are embedded
# Tokens in a pass. On a CPU a pass that exceeds a core's cache takes up to twice as long; a GPU needs large passes.
_TOKENS_PER_CORE, _TOKENS_ON_GPU = 512, 65_536
_LETTERS_PER_TOKEN = 4  # a rough guess that affects only the speed
_CHECKED = 4  # bf16 vectors of each call that are compared with exact ones
_ROUNDED = 0.9999  # least cosine of a bf16 vector with the exact one; all-MiniLM-L6-v2's worst is 0.99997


class Cut(NamedTuple):
    """How much of some texts a model reads before it cuts them off.

    Attributes:
        seen: Share of the wordpieces that it reads, below 1.
        after: Number of wordpieces after which it cuts a text off.
        stays: Whether the model has a query adapter, which leaves the way that chunks are read as it is.
    """

    seen: float
    after: int
    stays: bool = False


@dataclass(frozen=True)
class DeployedModel:
    """A model that DocsGPT can use, on a server or on this machine.

    Attributes:
        name: The model's name as in `--model`.
        fingerprint: Identifies everything that determines the chunks' vectors, so not a query adapter.
        embeddings: The embeddings object that DocsGPT would call.
        served_as: `.env` settings that make DocsGPT ask the server that has the model; None without such a server.
    """

    name: str
    fingerprint: str
    embeddings: EmbeddingModel
    served_as: Mapping[str, str] | None = field(default=None, kw_only=True)

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return self.embeddings.dimension

    @property
    def same_vector(self) -> float:
        """Least cosine at which a stored vector counts as this model's; a server may compute in int8."""
        return SAME_VECTOR_IN_INT8

    def engines(self) -> Iterator[EmbedInRows]:
        """Yield the functions texts -> (N, D) that may have made the stored vectors, the one that serves here first."""
        yield self.embed

    def made(self, texts: Sequence[str], vectors: Vectors) -> npt.NDArray[np.bool_]:
        """Tell for each stored vector (N, D) whether the model made it from its text; one with a NaN never counts."""
        return self.in_any_engine(texts, lambda rows, again: cosines(vectors[rows], again) >= self.same_vector)

    def in_any_engine(
        self, texts: Sequence[str], agree: Callable[[list[int], Vectors], npt.ArrayLike]
    ) -> npt.NDArray[np.bool_]:
        """Tell for each text whether any engine's vector of it agrees with the stored one.

        Args:
            texts: N texts.
            agree: Takes R positions in `texts` and an engine's vectors of these texts, (R, D); returns R booleans.
        """
        own = np.zeros(len(texts), dtype=np.bool_)
        for embed in self.engines():
            rows = np.flatnonzero(~own).tolist()
            own[rows] = agree(rows, embed([texts[row] for row in rows]))
            if own.all():
                break
        return own

    @property
    def settings(self) -> dict[str, str]:
        """`.env` settings that make DocsGPT use the model; empty if it is not known where the model is served."""
        return dict(self.served_as or {})

    @property
    def settings_in_words(self) -> str:
        """The settings as a person should read them, without credentials in URLs."""
        lines = " ".join(f"{name}={shown(value)}" for name, value in self.settings.items())
        return lines or "EMBEDDINGS_BASE_URL, to where it is served, and EMBEDDINGS_NAME, to its name there"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed chunks as DocsGPT would: (N, D) float32, in order."""
        vectors = self.embeddings.embed_documents(texts)
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self.dimension)

    def embed_many(self, texts: Sequence[str]) -> Vectors:
        """Embed many chunks of similar length fast: (N, D) float32, in order."""
        return self.embed(texts)

    def cuts_off(self, texts: Sequence[str]) -> Cut | None:
        """Tell how much of the texts is read before they are cut off; None, since a server does not say."""
        return None


@dataclass(frozen=True)
class FolderModel(DeployedModel):
    """A model on this machine, tuned or stock.

    Attributes:
        embeddings: The embeddings object that DocsGPT would call.
        folder: The model folder, which EMBEDDINGS_NAME has to name.
    """

    embeddings: StockEmbeddings
    folder: Path

    @property
    def same_vector(self) -> float:
        """Least cosine at which a stored vector counts as this model's.

        It is lower where another machine may have made the vector in int8 and this one cannot multiply in int8.
        """
        return SAME_VECTOR_IN_INT8 if self._has_int8() and not multiplies_int8() else SAME_VECTOR

    def engines(self) -> Iterator[EmbedInRows]:
        """Yield the engine that serves here, then the other one of int8 and fp32, if the folder has both.

        Stored vectors are compared with each engine separately instead of with a looser bound: a slightly tuned model
        is as close to its base as int8 is to fp32.
        """
        yield self.embed
        if self._has_int8() and multiplies_int8():
            with suppress(ModelFolderError):  # a broken graph must not forbid a rollback to another model
                yield replace(self, embeddings=self._in_other_numbers).embed

    @cached_property
    def _in_other_numbers(self) -> TunedEmbeddings:
        other = "onnx" if self._engine == "onnx-int8" else "onnx-int8"
        return TunedEmbeddings(str(self.folder), model_kwargs={"device": "cpu"}, engine=other)

    @property
    def settings(self) -> dict[str, str]:
        """`.env` settings that make DocsGPT use the model: ask its server, or else load the folder."""
        return super().settings or {"EMBEDDINGS_NAME": str(self.folder)}

    def embed_many(self, texts: Sequence[str]) -> Vectors:
        """Embed many chunks of similar length fast: (N, D) float32, in order.

        A model that serves in int8 embeds in int8, so that the stored vectors are those that will be served. Any other
        tuned model embeds in bf16 where the processor multiplies in bf16, which on one core is 1.5 times as fast as
        the fp32 graph. Some vectors of each call are compared with exact ones. If one differs by more than rounding
        explains, all are computed again in fp32.
        """
        texts = [encodable(text) for text in texts]
        if not texts or self._engine == "onnx-int8":
            return self.embed(texts)
        if self._multiplies_in_bf16():
            vectors = self._embed_with_torch(texts, "bf16")
            rows = range(0, len(texts), max(1, len(texts) // _CHECKED))
            if cosines(vectors[rows], self.embed([texts[row] for row in rows])).min() >= _ROUNDED:
                return vectors
        return self.embed(texts) if self._engine == "onnx" else self._embed_with_torch(texts, "fp32")

    @property
    def exported_reading(self) -> Reading | None:
        """How the model reads chunks, if an export chose another way than DocsGPT's own; None otherwise."""
        if not isinstance(self.embeddings, TunedEmbeddings):
            return None
        reading = self.embeddings.reading
        return reading if reading != Reading(read_manifest(self.folder)["max_seq_length"]) else None

    @property
    def _engine(self) -> str:
        return self.embeddings.engine if isinstance(self.embeddings, TunedEmbeddings) else "torch"

    def _has_int8(self) -> bool:
        return is_tuned_folder(self.folder) and "onnx-int8" in graphs_of(self.folder, read_manifest(self.folder))

    def _multiplies_in_bf16(self) -> bool:
        """Tell whether to embed in bf16; never for a stock model, which may lack the Normalize that Encoder needs."""
        is_tuned = isinstance(self.embeddings, TunedEmbeddings)
        return is_tuned and resolve_precision("auto", self.embeddings.model.device) == "bf16"

    def _embed_with_torch(self, texts: Sequence[str], precision: Precision) -> Vectors:
        from docsgpt_embtune.serving.encoding import Encoder

        model, batch_size = self.embeddings.model, self._batch_size(texts)
        as_it_is = partial(model.encode, batch_size=batch_size, show_progress_bar=False)
        encode: Encode = Encoder(model, "bf16", batch_size) if precision == "bf16" else as_it_is
        if isinstance(self.embeddings, TunedEmbeddings):
            encode = document_encoder(self.folder, self.embeddings.reading, encode, self.embeddings.keywords)
        return encode(texts)

    def _batch_size(self, texts: Sequence[str]) -> int:
        import torch

        model = self.embeddings.model
        longest = max((len(text) for text in texts), default=1) // _LETTERS_PER_TOKEN + 1
        tokens = min(longest, model.max_seq_length or longest)
        in_a_pass = _TOKENS_PER_CORE * torch.get_num_threads() if model.device.type == "cpu" else _TOKENS_ON_GPU
        return max(1, in_a_pass // tokens)

    def cuts_off(self, texts: Sequence[str]) -> Cut | None:
        """Tell how much of the texts is read before they are cut off; None if they are read whole."""
        if not texts or (isinstance(self.embeddings, TunedEmbeddings) and self.embeddings.reading.windows != "off"):
            return None
        model = self.embeddings.model
        seen = share_read(model, texts)
        adapts = isinstance(self.embeddings, TunedEmbeddings) and self.embeddings.query_adapter is not None
        return Cut(seen, tokens_read(model), adapts) if seen < 1 else None


def load_deployed_model(name: str) -> FolderModel:
    """Load a tuned folder, any other model folder, `bundled`, or a hub name.

    Raises:
        ModelFolderError: If there is no such model, or a tuned folder is incomplete.
    """
    folder = resolve_base(name).folder
    encode_kwargs = {"batch_size": BATCH_SIZE}
    if is_tuned_folder(folder):
        tuned = TunedEmbeddings(str(folder), encode_kwargs=encode_kwargs)
        return FolderModel(str(folder), tuned.fingerprint, tuned, folder)
    stock = StockEmbeddings(folder, serving_device(), encode_kwargs)
    return FolderModel(str(folder), document_fingerprint(folder), stock, folder)


def require_vectors_of(doc_ids: Sequence[object], stored: Vectors, again: Vectors, where: str) -> None:
    """Check newly built vectors against the model's own vectors of the same texts.

    Args:
        doc_ids: N row ids, for the message.
        stored: Vectors read back from the store, (N, D).
        again: Vectors embedded for the comparison, (N, D).
        where: What holds the vectors, and what to do with it, for the message.

    Raises:
        DeploymentError: If a vector differs or is not finite; names the worst one.
    """
    agreement = cosines(stored, again)
    if len(doc_ids) and not agreement.min() >= SAME_VECTOR:
        worst = int(agreement.argmin())
        raise DeploymentError(
            f"{where}: the vector of {doc_ids[worst]} is not the model's of its text (cosine {agreement[worst]:.4f})"
        )

"""The query adapter: a linear map on question vectors, so that stored chunks need not be embedded again.

A tuned model changes the vectors of questions and chunks, so every stored chunk must be embedded again. An adapter
changes only the question's vector q: W q, normalised to unit length, with W close to the identity. It is stored in the
folder of the model that it was made for, as `query_adapter.safetensors`, and needs only numpy to serve.

In DocsGPT, only `TunedEmbeddings` applies it. Without the plugin, DocsGPT loads the same folder through
sentence-transformers, which ignores the file and so serves the model without the adapter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import write_bytes_atomically
from docsgpt_embtune.manifest import AdapterRecord, Manifest
from docsgpt_embtune.vectors import unit_norm

ADAPTER_FILE = "query_adapter.safetensors"
_TENSOR = "matrix"


@dataclass(frozen=True)
class QueryAdapter:
    """A linear map on question vectors, followed by normalisation.

    Attributes:
        matrix: W, (D, D) float32; the identity changes nothing.
    """

    matrix: npt.NDArray[np.float32]

    def __call__(self, vector: Sequence[float]) -> list[float]:
        """Map one question's vector: D floats in, D floats out, unit norm."""
        adapted: list[float] = self.map(np.asarray([vector], dtype=np.float32))[0].tolist()
        return adapted

    def map(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map question vectors: (Q, D) to (Q, D), unit norm; zero vectors, a static model's for "", stay zero."""
        return unit_norm(vectors @ self.matrix.T)

    def write(self, folder: Path) -> AdapterRecord:
        """Write the adapter into a model folder, and return its manifest entry."""
        content = save({_TENSOR: np.ascontiguousarray(self.matrix)})
        write_bytes_atomically(folder / ADAPTER_FILE, content)
        return {"file": ADAPTER_FILE, "sha256": hashlib.sha256(content).hexdigest()}


def load_query_adapter(folder: Path, manifest: Manifest) -> QueryAdapter | None:
    """Load the adapter that a folder's manifest names; None if it names none.

    Raises:
        ModelFolderError: If the file is missing, unreadable, not the one that was written, or does not fit the model.
    """
    entry = manifest.get("query_adapter")
    if entry is None:
        return None
    path = folder / entry["file"]
    try:
        content = path.read_bytes()
        matrix = load(content)[_TENSOR]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelFolderError(f"{path}: the query adapter cannot be read ({error}); copy the folder again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise ModelFolderError(
            f"{path}: not the query adapter that was written (sha256 {found[:12]}…, expected "
            f"{entry['sha256'][:12]}…); copy the folder again"
        )
    width = manifest.get("server", manifest)["dimension"]  # of a server's vectors before keywords are appended
    if matrix.shape != (width, width):
        raise ModelFolderError(f"{path}: a map of {matrix.shape} for vectors {width} wide; adapt the model again")
    return QueryAdapter(matrix)

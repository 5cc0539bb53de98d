"""Write a folder for a server's model: the adapter and keywords to put before it, and where the server is."""

import hashlib
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from docsgpt_embtune.adapter import QueryAdapter
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import folder_written_whole, sha256_of
from docsgpt_embtune.manifest import SCHEMA, FittingRecord, Manifest, read_manifest, write_manifest
from docsgpt_embtune.model_folder import fingerprint, refuse_foreign_destination
from docsgpt_embtune.remote_model import RemoteEmbeddings, RemoteModel
from docsgpt_embtune.seen_questions import with_learned_too
from docsgpt_embtune.serving.keywords import KEYWORDS_FILE, Keywords
from docsgpt_embtune.vectors import SAME_VECTOR, EmbeddingModel, Vectors, cosines

_PROBES = 8  # chunks that are embedded again, to prove that the model served embeds as before
_SAME_LENGTH = 1e-3  # how far rounding may move a vector's length from 1


def write_for_server(
    remote: RemoteModel,
    server: RemoteEmbeddings,
    out: Path,
    corpus: tuple[Sequence[str], Vectors],
    *,
    adapter: QueryAdapter | None,
    keywords: Keywords | None,
    record: FittingRecord,
    learned: Collection[str],
) -> None:
    """Write a folder with what `embtune serve` puts before a server's model: a query adapter, keywords, or both.

    Args:
        remote: The server's model, which made the stored vectors.
        server: The same model, ready to embed.
        out: Destination; replaced in one step if it is a tuned folder already.
        corpus: Chunks and the server's vectors of them (N, D); some are requested again, as these may be from a cache.
        adapter: The adapter to apply to questions.
        keywords: The keywords to put beside the vectors of questions and of chunks.
        record: What the manifest says of the adapter, or of the keywords if there is no adapter.
        learned: Digests of the questions that these learned from.

    Raises:
        ModelFolderError: If the destination is something else, or the server now gives chunks other vectors.
    """
    refuse_foreign_destination(out)
    prove_that_chunks_stay(server, *corpus)
    with folder_written_whole(out) as new:
        of_chunks, dimension = remote.document_fingerprint, server.dimension
        if keywords:
            keywords.write(new)
            of_chunks = hashlib.sha256(f"{of_chunks} {sha256_of(new / KEYWORDS_FILE)}".encode()).hexdigest()
            dimension += keywords.width
        written = adapter.write(new) if adapter else None
        manifest: Manifest = {
            "schema": SCHEMA,
            "fingerprint": fingerprint(new),
            "dimension": dimension,
            "server": remote.record(server.probe, of_chunks),
        }
        if keywords:
            manifest["keywords"] = {"weight": keywords.weight, "width": keywords.width}
        if written:
            manifest["query_adapter"] = {**written, **record}
        else:
            manifest["keywords"] = {**manifest["keywords"], **record}
        write_manifest(new, with_learned_too(manifest, learned))


def what_it_asks_of_a_deployment(folder: Path) -> list[str]:
    """Say in a line or two what a deployment has to do for a folder that is put before a server's model."""
    quoted = shlex.quote(str(folder))
    serve = f"`embtune serve {quoted}`, which asks the server"
    if "keywords" not in read_manifest(folder):
        return [f"stored chunks stay as they are; the adapter works through {serve}"]
    return [
        f"stored chunks need their keywords: embtune reembed --model {quoted}, or upload the documents again",
        f"it works through {serve}",
    ]


def refuse_other_lengths(probe: Sequence[float], name: str, remedy: str = "let the server normalise them") -> None:
    """Raise ModelFolderError if a model's vectors are not of unit norm, before the corpus is embedded, or paid for.

    Args:
        probe: Its vector of some text.
        name: Its name.
        remedy: What to do about it.
    """
    length = np.linalg.norm(probe)
    if not np.isclose(length, 1.0, atol=_SAME_LENGTH):
        raise ModelFolderError(
            f"{name}: gives vectors of length {length:.3f}, and an adapter or keywords can go before those of length 1 "
            f"alone; {remedy}"
        )


def prove_that_chunks_stay(model: EmbeddingModel, texts: Sequence[str], vectors: Vectors) -> None:
    """Raise ModelFolderError if a model does not give chunks the vectors (N, D) that they had before."""
    again = np.array(model.embed_documents(texts[:_PROBES]), dtype=np.float32)
    moved = float(cosines(again, vectors[:_PROBES]).min())
    lengths = np.linalg.norm(vectors[:_PROBES], axis=1)
    if moved < SAME_VECTOR or not np.allclose(lengths, 1.0, atol=_SAME_LENGTH):
        raise ModelFolderError(
            f"what would be served does not embed chunks as the model did (cosine {moved:.4f}, the model's lengths "
            f"{lengths.min():.3f} to {lengths.max():.3f}), so stored vectors would be wrong; tune with `embtune "
            "train`, or, where another model has come to answer at a server, give another --cache"
        )

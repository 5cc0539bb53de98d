"""Find what is wrong with a deployment by examining its stored vectors, without any records of past runs."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from docsgpt_embtune.base_models import HOST_DEFAULT
from docsgpt_embtune.deployment.deployed_model import DeployedModel, FolderModel
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.host_source import HostSource
from docsgpt_embtune.deployment.stores import SAMPLED_CHUNKS, ChunkStore, spread
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.remote_model import RemoteModel
from docsgpt_embtune.urls import without_credentials

_ENTITIES = ".graph_nodes"  # GraphRAG's table, which DocsGPT creates at start-up even if GraphRAG is not used
SEEN_ENOUGH = 0.95  # share of the wordpieces; losing the last words of some chunks is no fault


@dataclass(frozen=True)
class Finding:
    """A fault of the deployment.

    Attributes:
        where: The source, table or file.
        problem: Kind of fault: "unreadable", "empty", "width", "vectors", "mixed", "truncated" or "settings".
        message: What is wrong, with values, and what to do.
    """

    where: str
    problem: str
    message: str


def examine(store: ChunkStore, model: DeployedModel, sample: int = SAMPLED_CHUNKS) -> list[Finding]:
    """Embed a sample of a store's chunks again and compare the vectors.

    Args:
        store: The store of a source, or of a table.
        model: The model that DocsGPT embeds questions with.
        sample: Number of chunks to compare; all of them if the store has fewer.

    Returns:
        The faults found; empty if the store is healthy.
    """
    try:
        width, stored = store.width(), store.sample(sample)
    except DeploymentError as error:
        return [Finding(store.label, "unreadable", str(error))]
    if not stored.texts:
        if store.label.endswith(_ENTITIES):
            return []
        return [Finding(store.label, "empty", "no chunk is in it; delete the source, or upload it again")]
    if width != model.dimension:
        message = (
            f"vectors of {width} numbers, the model gives {model.dimension}: every search fails; {_reembedding(model)}"
        )
        findings = [Finding(store.label, "width", message)]
    else:
        own = model.made(stored.texts, stored.vectors)
        findings = _foreign(store.label, stored.doc_ids, own, _reembedding(model))
    return findings + _truncation(store.label, stored.texts, model)


def examine_in_host(source: HostSource, model: DeployedModel, sample: int = SAMPLED_CHUNKS) -> list[Finding]:
    """Search DocsGPT's own store for a sample of a source's chunks, with the model's vectors of these chunks.

    Args:
        source: The source.
        model: The model that DocsGPT embeds questions with.
        sample: Number of chunks to search for.

    Returns:
        The faults found; empty if the source is healthy.
    """
    try:
        chunks = source.chunks()
        picked = [chunks[position] for position in spread(len(chunks), sample)]
        texts = [text for _, text in picked]
        own = model.in_any_engine(
            texts,
            lambda rows, vectors: [
                source.holds(texts[row], vector, model.same_vector)
                for row, vector in zip(rows, vectors.tolist(), strict=True)
            ],
        )
    except DeploymentError as error:
        return [Finding(source.label, "unreadable", str(error))]
    if not picked:
        return [Finding(source.label, "empty", "no chunk is in it, or its database cannot be read: see DocsGPT's log")]
    remedy = "re-embed it (embtune reembed), or delete and upload it again where its store cannot be re-embedded"
    return _foreign(source.label, [doc_id for doc_id, _ in picked], own, remedy) + _truncation(
        source.label, texts, model
    )


def _reembedding(model: DeployedModel) -> str:
    given = "the store and the --env" if model.settings else "the store"
    return f"run: embtune reembed --model {model.name}, with {given} that doctor was given"


def _foreign(label: str, doc_ids: Sequence[str], own: np.ndarray, remedy: str) -> list[Finding]:
    """Report vectors of another model; `own` tells for each sampled vector whether it is the model's, (N,), N >= 1."""
    if own.all():
        return []
    if not own.any():
        message = f"none of {len(own)} sampled vectors was made by this model: searches rank wrongly; {remedy}"
        return [Finding(label, "vectors", message)]
    first = doc_ids[int(own.argmin())]
    message = (
        f"{(~own).sum()} of {len(own)} sampled vectors were made by another model (first: chunk {first!r}): "
        f"some chunks are found wrongly; {remedy}"
    )
    return [Finding(label, "mixed", message)]


def _truncation(label: str, texts: Sequence[str], model: DeployedModel) -> list[Finding]:
    cut = model.cuts_off(texts)
    if cut is None or cut.seen >= SEEN_ENOUGH:
        return []
    windows = "embtune export --data tries whether questions gain by reading in windows; or "
    message = (
        f"the model reads {cut.seen:.0%} of the text: it cuts each chunk after {cut.after} wordpieces; "
        f"{'' if cut.stays else windows}upload with smaller chunks"
    )
    return [Finding(label, "truncated", message)]


def examine_settings(environment: EnvironmentFile, model: FolderModel, called: str | None = None) -> list[Finding]:
    """Check that the host's `.env` makes it load this model.

    Args:
        environment: The host's `.env`.
        model: The model that the host should load.
        called: The name that the model was loaded by, if the host may know it by that name, too.
    """
    where = str(environment.path)
    name = environment.get("EMBEDDINGS_NAME")
    if url := environment.get("EMBEDDINGS_BASE_URL"):
        if _was_switched_to_server(environment):
            return []
        served = shlex.quote(f"{without_credentials(url)}#{name or 'NAME'}")
        message = (
            f"EMBEDDINGS_BASE_URL={without_credentials(url)} overrides EMBEDDINGS_NAME: vectors come from that server; "
            f"examine what it serves (--model {served}), or remove that line"
        )
        return [Finding(where, "settings", message)]
    if called == (name or HOST_DEFAULT) and not Path(called).is_dir():
        return []
    if name is None:
        found = "EMBEDDINGS_NAME is not set, so that DocsGPT loads its default"
    elif not Path(name).is_absolute():
        found = f"EMBEDDINGS_NAME={name} is no absolute path: DocsGPT loads, or downloads, a model of that name"
    elif Path(name).resolve() != model.folder.resolve():
        found = f"EMBEDDINGS_NAME={name} is not the model examined here"
    else:
        return []
    # Do not advise to set the name alone: with another model's vectors, every search would then fail or rank wrongly.
    remedy = f"once the vectors are this model's, set EMBEDDINGS_NAME={model.folder} (embtune reembed --env does both)"
    return [Finding(where, "settings", f"{found}; {remedy}")]


def _was_switched_to_server(environment: EnvironmentFile) -> bool:
    """Tell whether `.env` asks the server to which a re-embedding switched it.

    Which model that re-embedding was for shows in the stored vectors, which `examine` compares.
    """
    return all(environment.get_switched(setting) for setting in ("EMBEDDINGS_BASE_URL", "EMBEDDINGS_NAME"))


def examine_settings_for_server(environment: EnvironmentFile, remote: RemoteModel) -> list[Finding]:
    """Check that the host's `.env` makes it ask a server for this model.

    The server's address is not compared: the host may reach it from another container under a different one.

    Args:
        environment: The host's `.env`.
        remote: The server's model that the host should ask for.
    """
    url, name = (environment.get(setting) for setting in ("EMBEDDINGS_BASE_URL", "EMBEDDINGS_NAME"))
    shown = without_credentials(url or "")
    if not url:
        found = (
            "EMBEDDINGS_BASE_URL is not set, so that DocsGPT asks no server; set it to "
            f"{without_credentials(remote.url)}, and EMBEDDINGS_NAME to {remote.model}"
        )
    elif url.rstrip("/").endswith("/v1"):
        found = f"EMBEDDINGS_BASE_URL={shown}: DocsGPT puts /v1/embeddings behind it, so leave out /v1"
    elif remote.folder and url.rstrip("/") == remote.url:
        found = (
            f"EMBEDDINGS_BASE_URL={shown} is the server that {remote.folder.name} is to stand before, so that "
            f"DocsGPT passes it by; set it to where `embtune serve {remote.folder}` listens"
        )
    elif name != remote.model:
        found = f"EMBEDDINGS_NAME={name}: the model examined here is called {remote.model}"
    else:
        return []
    return [Finding(str(environment.path), "settings", found)]

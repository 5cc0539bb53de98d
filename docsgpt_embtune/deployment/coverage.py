"""Check that a command was given every store that DocsGPT searches with the model that its `.env` names."""

from collections.abc import Collection
from pathlib import Path

from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import INDEX
from docsgpt_embtune.errors import DeploymentError

_OPTIONS = {"faiss": "--indexes", "pgvector": "--pgvector", "qdrant": "--qdrant", "milvus": "--milvus"}
# From DocsGPT 0.19, application/vectorstore/.
_WHY_NOT = {
    "elasticsearch": "DocsGPT's own store hands out none of its chunks",
    "mongodb": "DocsGPT fixes the names of collection, field and search index, so that nothing can be built beside "
    "the old vectors and take their place in one step",
    "lancedb": "DocsGPT knows no store of that name, and its class for it cannot add a chunk",
}


def require_searched_store(environment: EnvironmentFile, given: Collection[str]) -> None:
    """Check that the store that DocsGPT searches is among those given.

    DocsGPT raises no error if the model is switched, or rolled back, while the stored vectors stay another model's.

    Args:
        environment: The host's `.env`; if it sets no VECTOR_STORE, nothing is checked.
        given: Names of the given stores, spelled as in VECTOR_STORE.

    Raises:
        DeploymentError: If DocsGPT searches a store that was not given, or one that cannot be re-embedded.
    """
    name = (environment.get("VECTOR_STORE") or "").lower()
    if name in _WHY_NOT:
        raise DeploymentError(
            f"{environment.path}: VECTOR_STORE={name} cannot be re-embedded: {_WHY_NOT[name]}; set EMBEDDINGS_NAME, "
            "restart DocsGPT, and delete and upload the sources again (embtune doctor --docsgpt tells which were)"
        )
    if name in _OPTIONS and name not in given:
        raise DeploymentError(
            f"{environment.path}: DocsGPT searches VECTOR_STORE={name}, which was not given, so that its vectors "
            f"would stay another model's; give {_OPTIONS[name]}"
        )


def require_switched_stores(environment: EnvironmentFile, given: Collection[str]) -> None:
    """Check that a rollback of `.env` includes every store that was switched together with it.

    Args:
        environment: The host's `.env`; the record beside it lists these stores.
        given: Names of the given stores, spelled as in VECTOR_STORE.

    Raises:
        DeploymentError: If such a store was not given.
    """
    if left_out := [name for name in environment.switched_stores() if name not in given]:
        raise DeploymentError(
            f"{environment.path}: was switched together with {', '.join(left_out)}, whose vectors would stay the new "
            f"model's; give {' and '.join(_OPTIONS[name] for name in left_out)}, too"
        )


def require_all_sources(environment: EnvironmentFile, indexes: Path) -> None:
    """Check that not just one of several source folders was given: `.env` switches the model of all of them.

    Args:
        environment: The host's `.env`.
        indexes: The given folder: that of all sources, or of a single one.

    Raises:
        DeploymentError: If it is the folder of a single source, and there are others beside it.
    """
    if not (indexes / INDEX).is_file():
        return
    source = indexes.resolve()  # without resolve(), the parent of "." would be "."
    others = sorted(index.parent.name for index in source.parent.glob(f"*/{INDEX}"))
    if len(others) > 1:
        raise DeploymentError(
            f"{source}: is one of {len(others)} sources ({', '.join(others[:3])} …), and {environment.path} switches "
            f"the model of all of them; give --indexes {source.parent}"
        )

"""Whether a command was given all that DocsGPT searches by the model that its `.env` names."""

from collections.abc import Collection
from pathlib import Path

from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import INDEX
from docsgpt_embtune.errors import DeploymentError

_OPTIONS = {"faiss": "--indexes", "pgvector": "--pgvector", "qdrant": "--qdrant", "milvus": "--milvus"}
# Read in DocsGPT at 0.19, application/vectorstore/.
_WHY_NOT = {
    "elasticsearch": "DocsGPT's own store hands out none of its chunks",
    "mongodb": "DocsGPT fixes the names of collection, field and search index, so that nothing can be built beside "
    "the old vectors and take their place in one step",
    "lancedb": "DocsGPT knows no store of that name, and its class for it cannot add a chunk",
}


def require_searched_store(environment: EnvironmentFile, given: Collection[str]) -> None:
    """Check that the store whose vectors DocsGPT searches is among those given.

    A model that is put in force, or taken back, while these vectors stay another model's raises no error in DocsGPT.

    Args:
        environment: The host's `.env`; without a VECTOR_STORE in it, nothing is known and nothing checked.
        given: Names of the stores, as VECTOR_STORE has them.

    Raises:
        DeploymentError: If it is another one, or one that cannot be re-embedded.
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
    """Check that no store which was switched with `.env` is left out where that is taken back.

    Args:
        environment: The host's `.env`, beside which they are on record.
        given: Names of the stores, as VECTOR_STORE has them.

    Raises:
        DeploymentError: If one is.
    """
    if left_out := [name for name in environment.switched_stores() if name not in given]:
        raise DeploymentError(
            f"{environment.path}: was switched together with {', '.join(left_out)}, whose vectors would stay the new "
            f"model's; give {' and '.join(_OPTIONS[name] for name in left_out)}, too"
        )


def require_all_sources(environment: EnvironmentFile, indexes: Path) -> None:
    """Check that a source's folder is not given without the others beside it, whose model `.env` switches as well.

    Args:
        environment: The host's `.env`.
        indexes: What was given: the folder of all sources, or one source's.

    Raises:
        DeploymentError: If it is one source's, and there are others.
    """
    if not (indexes / INDEX).is_file():
        return
    source = indexes.resolve()  # the parent of "." is "."
    others = sorted(index.parent.name for index in source.parent.glob(f"*/{INDEX}"))
    if len(others) > 1:
        raise DeploymentError(
            f"{source}: is one of {len(others)} sources ({', '.join(others[:3])} …), and {environment.path} switches "
            f"the model of all of them; give --indexes {source.parent}"
        )

"""Whether a command was given the store that DocsGPT searches: the one that VECTOR_STORE names in its `.env`."""

from collections.abc import Collection

from docsgpt_embtune.deployment.environment_file import EnvironmentFile
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

    A model that is put in force while these vectors stay the old model's raises no error in DocsGPT.

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
            f"would stay the old model's; give {_OPTIONS[name]}"
        )

"""Token counts, by DocsGPT's tokenizer or by a model's."""

from collections.abc import Callable

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.tokenizer import load_tokenizer

CL100K = "cl100k"


def token_counter(name: str) -> Callable[[str], int]:
    """Return a function that counts a text's tokens.

    Args:
        name: "cl100k", DocsGPT's own, or a base model: hub name, folder or "bundled".

    Raises:
        DatasetError: If tiktoken is missing, or its table can be neither found nor fetched, or the model has no
            tokenizer.json.
        ModelFolderError: If the model is not there.
    """
    return _cl100k_counter() if name == CL100K else _model_counter(name)


def _cl100k_counter() -> Callable[[str], int]:
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception as error:  # tiktoken is missing, or whatever requests raises if the table cannot be fetched
        raise DatasetError(
            f"{CL100K}: tiktoken or its table is not here ({type(error).__name__}); run pip install tiktoken, set "
            "TIKTOKEN_CACHE_DIR, or count with a model's tokenizer: --tokenizer bundled"
        ) from error
    return lambda text: len(encoding.encode_ordinary(text))


def _model_counter(name: str) -> Callable[[str], int]:
    folder = resolve_base(name).folder
    if not (folder / "tokenizer.json").is_file():
        raise DatasetError(f"{folder}: has no tokenizer.json; give another model's, or --tokenizer {CL100K}")
    tokenizer = load_tokenizer(folder)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

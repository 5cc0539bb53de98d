"""Token counts, by DocsGPT's tokenizer or by a model's."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from docsgpt_embtune.base_models import resolve_base
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

CL100K = "cl100k"
_LONGEST_WORD = 100  # characters; of a longer one WordPiece makes one unknown token, whatever is in it


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
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")

    def count(text: str) -> int:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        hidden = _tokens_hidden_in(encoding, unknown) if unknown in encoding.ids else 0
        return len(encoding.ids) + hidden

    return count


def _tokens_hidden_in(encoding: "Encoding", unknown: int) -> int:
    """Count a token for each character of a long run without blanks, of which WordPiece makes one unknown token."""
    spans = (
        end - start for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if token == unknown
    )
    return sum(span - 1 for span in spans if span > _LONGEST_WORD)

"""A model folder's tokenization, read with the tokenizers package alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docsgpt_embtune.static_model import is_static_folder


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer without truncation and padding, and with the special tokens that the model reads."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if is_static_folder(folder):
        # sentence-transformers adds no special tokens for a static model. tokenizers before 0.20 does not accept None.
        tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tokenizer


def text_preparation(folder: Path) -> Callable[[str], str]:
    """Return a function that prepends the default prompt to a text, as sentence-transformers does before tokenizing."""
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"), "")
    return lambda text: prompt + text

"""What a model folder says of how a text becomes tokens, read with the tokenizers package alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docsgpt_embtune.token_table import is_static_folder


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer so that it neither cuts nor pads, and adds to a text what its model reads with it."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if is_static_folder(folder):
        # sentence-transformers puts no special tokens into a mean. tokenizers before 0.20 take no None here.
        tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tokenizer


def text_preparation(folder: Path) -> Callable[[str], str]:
    """Tell what sentence-transformers does to a text before it is cut into tokens: the default prompt."""
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"), "")
    return lambda text: prompt + text

"""Registration: light, and clear about what is missing."""

import subprocess
import sys

import pytest

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.plugin import make_embeddings, register


def test_registration_imports_neither_torch_nor_sentence_transformers():
    code = (
        "import sys\n"
        "from application.vectorstore.base import embeddings_factory\n"
        "assert 'docsgpt_embtune' in embeddings_factory\n"
        "print([name for name in ('torch', 'sentence_transformers', 'transformers', 'faiss') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.stdout.strip() == "[]", finished.stderr


def test_name_without_a_folder_says_what_to_set():
    with pytest.raises(ModelFolderError, match="set EMBEDDINGS_NAME to the tuned folder's absolute path"):
        make_embeddings()


def test_a_plain_dict_is_told_from_a_registry():
    plain = {}
    with pytest.raises(
        TypeError, match=r"must be the registry of .*, and is \{\}; into a plain dict put make_embeddings"
    ):
        register(plain)
    assert not plain


def test_keys_that_callers_pass_along_are_ignored(tiny_tuned_folder):
    assert make_embeddings(str(tiny_tuned_folder), "sk-1", openai_api_key="sk-1").dimension == 32

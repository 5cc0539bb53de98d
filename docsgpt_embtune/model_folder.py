"""The tuned model's folder: its fingerprint, its integrity, and where one may be written."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docsgpt_embtune.destinations import fault_of_destination, lack_of_room
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import sha256_of
from docsgpt_embtune.manifest import MANIFEST, Manifest, read_manifest
from docsgpt_embtune.wording import Say

# Files that determine the vectors, and no others: a changed README or version note leaves the model the same.
_FINGERPRINTED = (
    "*.safetensors",
    "*.bin",
    "*_*/*.safetensors",
    "*_*/*.bin",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "*_*/config.json",
    "*_*/tokenizer.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
# Modules of sentence-transformers 3.0 to 6.2, and the tokenizers of WordEmbeddings. What else has a name that begins
# with its own loads more: a whole model, whose modules nobody has looked at, or (torch, imported there) a pickle.
_MODULES = frozenset(
    "Asym BoW CLIPModel CNN Dense Dropout LSTM LayerNorm Normalize Pooling Router StaticEmbedding Transformer "
    "WeightedLayerPooling WordEmbeddings WordWeights PhraseTokenizer TransformersTokenizerWrapper "
    "WhitespaceTokenizer".split()
)
# Keys of modules' configs that name what is imported, and made, as well: a class of torch, or a tokenizer.
_IMPORTED = {
    "Dense": ("config.json", "activation_function"),
    "WordEmbeddings": ("wordembedding_config.json", "tokenizer_class"),
}
_ACTIVATIONS = "torch.nn."
# Modules that route a text to one of several others (the current name and the former one), and the files that list
# these.
_CHOOSING = ("Router", "Asym")
_THEIR_CONFIGS = ("router_config.json", "config.json")
_PROMPT_KEYS = ("prompts", "default_prompt_name", "similarity_fn_name")


def is_tuned_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder that `embtune train` wrote."""
    return (Path(path) / MANIFEST).is_file()


def adapts_a_server(path: str | Path) -> bool:
    """Tell whether a path is a folder with an adapter or keywords for a server's model, and no model of its own."""
    return is_tuned_folder(path) and "server" in read_manifest(path)


def refuse_adapter_of_a_server(folder: str | Path) -> None:
    """Raise ModelFolderError if a folder adapts a server's model and so holds no model itself."""
    if is_tuned_folder(folder) and (server := read_manifest(folder).get("server")):
        raise ModelFolderError(
            f"{folder}: made for {server['model']!r} of {server['url']}, and holds no model; `embtune serve` puts it "
            "before that server, and `embtune check --tuned` takes it"
        )


def fingerprint(folder: str | Path) -> str:
    """Identify a model by everything that determines its vectors.

    Args:
        folder: A sentence-transformers folder, tuned or not.

    Returns:
        Hex sha256 over weights, tokenizer, modules, pooling, sequence length and prompts.

    Raises:
        ModelFolderError: If the folder holds no weights.
    """
    folder = Path(folder)
    paths = _files_of_the_model(folder)
    if not any(path.suffix in (".safetensors", ".bin") for path in paths):
        raise ModelFolderError(f"{folder}: holds no weights (no .safetensors)")
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    digest.update(json.dumps(prompts_of(folder), sort_keys=True).encode())
    return digest.hexdigest()


def _files_of_the_model(folder: Path) -> set[Path]:
    return {path for pattern in (*_FINGERPRINTED, *TOKENIZER_FILES) for path in folder.glob(pattern)}


def size_of_model(folder: Path) -> int:
    """Return the size of a model's files in bytes; weights that are there in two formats count once."""
    paths = _files_of_the_model(folder)
    if any(path.suffix == ".safetensors" for path in paths):
        paths = {path for path in paths if path.suffix != ".bin"}
    return sum(path.stat().st_size for path in paths)


def document_fingerprint(folder: str | Path) -> str:
    """Identify the model that embeds a folder's chunks.

    This is the folder's own fingerprint, unless it has a query adapter. An adapter changes only question vectors, so
    the stored chunk vectors of the model that it was made for remain valid.
    """
    if is_tuned_folder(folder) and (adapter := read_manifest(folder).get("query_adapter")):
        return adapter["document_fingerprint"]
    return fingerprint(folder)


def verify(folder: str | Path) -> Manifest:
    """Check that a tuned folder is complete and unchanged since it was written.

    Returns:
        Its manifest.

    Raises:
        ModelFolderError: If anything that determines the vectors is missing or differs, or the folder holds no model.
    """
    refuse_adapter_of_a_server(folder)
    return verify_any(folder)


def verify_any(folder: str | Path) -> Manifest:
    """Check as `verify` does, but also accept a folder that adapts a server's model."""
    manifest = read_manifest(folder)
    found = fingerprint(folder)
    if found != manifest["fingerprint"]:
        raise ModelFolderError(
            f"{folder}: not the model that its {MANIFEST} describes (fingerprint {found[:12]}…, written as "
            f"{manifest['fingerprint'][:12]}…): a file is missing, half-copied or changed; copy the folder again"
        )
    return manifest


def refuse_code_of_its_own(folder: Path) -> None:
    """Raise ModelFolderError if a folder names anything to import but sentence-transformers' modules and torch's.

    Before 6.0, sentence-transformers runs such modules' code from a local folder, even with remote code disabled.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        types = [name for module in modules for name in _types_in(folder / module.get("path", ""), str(module["type"]))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFolderError(
            f"{path}: broken ({type(error).__name__}: {error}); download or copy the model again"
        ) from error
    foreign = [name for name in types if not _is_a_module(name)]
    if foreign:
        raise ModelFolderError(
            f"{path}: module {foreign[0]!r} is code of the model's own, or none of sentence-transformers' modules for "
            "embeddings, and is not run; use a model that is made of these"
        )


def _is_a_module(name: str) -> bool:
    return name.startswith("sentence_transformers.") and name.rpartition(".")[2] in _MODULES


def _types_in(folder: Path, module_type: str) -> Iterator[str]:
    """Yield a module's type, what its config has imported, and the types of the modules that a router routes to."""
    yield module_type
    kind = module_type.rpartition(".")[2]
    if kind in _IMPORTED:
        file, key = _IMPORTED[kind]
        config = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
        if key in config and not str(config[key]).startswith(_ACTIVATIONS):
            yield str(config[key])
    if kind not in _CHOOSING:
        return
    for config in (folder / name for name in _THEIR_CONFIGS):
        if config.is_file():
            for name, chosen in json.loads(config.read_text(encoding="utf-8")).get("types", {}).items():
                yield from _types_in(folder / name, str(chosen))


def refuse_foreign_destination(out: Path) -> None:
    """Raise ModelFolderError if no folder can be put at `out`, or `out` holds something else than a tuned model."""
    place = out.resolve()
    if fault := fault_of_destination(place):
        raise ModelFolderError(f"{out}: {fault}; choose another --out")
    if Path.cwd().is_relative_to(place) or os.path.ismount(place):  # Path's own fails on Windows before Python 3.12
        raise ModelFolderError(
            f"{out}: a folder that is stood in, or mounted, cannot be replaced in one step; choose an --out below it"
        )
    if out.exists() and not is_tuned_folder(out) and (not out.is_dir() or any(out.iterdir())):
        raise ModelFolderError(f"{out}: exists and is not a tuned model; choose another --out, or remove it")


def check_destination(out: Path, say: Say, *, made_of: Path | None = None) -> None:
    """Check that a model can be written to a folder, and announce it if a tuned folder will be replaced.

    Args:
        out: Destination of the new model.
        say: Takes a line of plain text.
        made_of: Folder of the model that the new one is made from, which must not be overwritten.

    Raises:
        ModelFolderError: If `refuse_foreign_destination` refuses `out`, if it is or lies within `made_of`, or if its
            disk has no room for a model as large as `made_of`.
    """
    refuse_foreign_destination(out)
    if made_of is not None and out.resolve() == made_of.resolve():
        raise ModelFolderError(f"{out}: is the model to begin with, and would be gone; choose another --out")
    if made_of is not None and made_of.resolve() in out.resolve().parents:
        raise ModelFolderError(f"{out}: lies within the model to begin with; choose another --out")
    if made_of is not None and (lack := lack_of_room(out.resolve(), size_of_model(made_of))):
        raise ModelFolderError(f"{out}: {lack} for the model; make room, or give another --out")
    if is_tuned_folder(out):
        say(f"replaces    {out}, if a model is written")


def prompts_of(folder: Path) -> dict[str, Any]:
    """Return the prompt settings of a sentence-transformers folder, as far as it has any.

    Raises:
        ModelFolderError: If the file is broken.
    """
    path = folder / "config_sentence_transformers.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {key: config[key] for key in _PROMPT_KEYS if config.get(key)}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFolderError(f"{path}: broken ({error}); download or copy the model again") from error

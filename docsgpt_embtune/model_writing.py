"""Writing of a tuned model in a form that every DocsGPT since 0.11 loads.

DocsGPT pins versions of sentence-transformers that cannot read what the current one saves: module paths changed in 6.0,
and the keys of the pooling and transformer configs in 5.4. The folder therefore keeps the base model's own config and
tokenizer files, lists the modules under names that all versions know, and has the tuned weights as fp32 safetensors.
"""

import gc
import json
import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import file_written_whole, folder_written_whole
from docsgpt_embtune.loading import load_model, without_transformers_bars
from docsgpt_embtune.manifest import SCHEMA, Manifest, write_manifest
from docsgpt_embtune.model_folder import TOKENIZER_FILES, fingerprint, prompts_of, refuse_foreign_destination, verify
from docsgpt_embtune.static_model import KIND as STATIC
from docsgpt_embtune.static_model import is_static, tokens_read
from docsgpt_embtune.wording import Say

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from docsgpt_embtune.serving.keywords import Keywords

ZIP_NAME = "model-embeddings.zip"
# Module classes that sentence-transformers 3.0.1 to 6.2 loads by this path without remote code (StaticEmbedding: from
# 3.2 on).
_LEGACY_TYPE = {
    name: f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize", STATIC)
}
_POOLING_KEYS = {  # in the order in which the vectors of several are joined, whatever order a newer config gives
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# The zip format's epoch, so that equal folders give equal bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_model_folder(
    model: "SentenceTransformer",
    base_folder: Path,
    out: Path,
    details: Manifest,
    keywords: "Keywords | None" = None,
) -> Manifest:
    """Write a tuned model to a temporary folder, verify that it loads, then move it to its destination.

    Args:
        model: The tuned model: a Transformer, Pooling, possibly Dense layers, and Normalize last; or a StaticEmbedding
            in place of the first two.
        base_folder: The base model's folder. Config and tokenizer files are copied unchanged; for a static model, only
            the prompts are taken.
        out: Destination; replaced in one step if it is already a tuned folder.
        details: Entries of the manifest, in addition to those made here.
        keywords: Keywords that `TunedEmbeddings` appends to the model's vectors.

    Returns:
        The manifest as written, including schema, fingerprint, dimension and sequence length.

    Raises:
        ModelFolderError: If the destination is not a tuned folder, or the written folder does not reproduce the
            model's vectors.
    """
    refuse_foreign_destination(out)
    with folder_written_whole(out) as partial:
        _write_weights_and_modules(model, base_folder, partial)
        if keywords:
            keywords.write(partial)
        manifest: Manifest = {
            "schema": SCHEMA,
            "fingerprint": fingerprint(partial),
            "dimension": (model.get_embedding_dimension() or 0) + (keywords.width if keywords else 0),
            "max_seq_length": tokens_read(model),
        }
        if keywords:
            manifest["keywords"] = {"weight": keywords.weight, "width": keywords.width}
        manifest |= details
        write_manifest(partial, manifest)
        _prove_that_it_loads(model, partial)
        for path in partial.rglob("*"):  # safetensors have mode 0600, but a container may run as another user
            path.chmod(0o755 if path.is_dir() else 0o644)
    return manifest


def refuse_unwritable(model: "SentenceTransformer") -> None:
    """Raise ModelFolderError if a model is built of what not every DocsGPT can load; to be asked before the training.

    `write_model_folder` proves the rest when it writes.
    """
    for index, module in enumerate(model):
        kind = type(module).__name__
        if kind not in _LEGACY_TYPE:
            raise ModelFolderError(
                f"module {index} of the model is a {kind}, which not every DocsGPT can load; "
                f"use a base model made of {', '.join(_LEGACY_TYPE)}"
            )
        if kind == "Dense":
            _portable_dense_config(module)
        if kind == "Pooling" and (modes := _pooling_modes(module)) != (
            usual := sorted(modes, key=[*_POOLING_KEYS].index)
        ):
            raise ModelFolderError(
                f"module {index} of the model joins the vectors of {', '.join(modes)} in this order, and what DocsGPT "
                f"loads joins {', '.join(usual)}; use another base model"
            )


def zip_beside(folder: Path) -> Path:
    """Return the path of a folder's zip, which is the same for all folders beside it."""
    return folder.parent / ZIP_NAME


def take_zip_destination(folder: Path, say: Say) -> None:
    """Raise ModelFolderError if a folder's zip could not be written, and announce it if one will be replaced."""
    path = zip_beside(folder)
    if path.exists() and not path.is_file():
        raise ModelFolderError(f"{path}: exists and is not a file; move it away, or choose another --out")
    if path.exists():
        say(f"replaces    {path}, if a model is written")


def zip_model_folder(folder: Path, path: Path | None = None) -> Path:
    """Pack a tuned folder for upload: files at the root, and the same bytes for the same folder.

    Args:
        folder: A tuned folder; verified first.
        path: The zip; `model-embeddings.zip` beside the folder if not given.

    Returns:
        The path of the zip.
    """
    verify(folder)
    path = path or zip_beside(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with (
        file_written_whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for file in files:
            member = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _ZIP_TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o100644 << 16
            with file.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return path


def _write_weights_and_modules(model: "SentenceTransformer", base_folder: Path, folder: Path) -> None:
    refuse_unwritable(model)
    if is_static(model):
        model.tokenizer.save(str(folder / "tokenizer.json"))  # to count tokens with; the module has its own
    else:
        _copy_transformer_files(model, base_folder, folder)
    modules = []
    for index, module in enumerate(model):
        kind = type(module).__name__
        # sentence-transformers before 5 loads whatever is at the root as a transformer.
        path = "" if kind == "Transformer" else f"{index}_{kind}"
        (folder / path).mkdir(exist_ok=True)
        _write_module(kind, module, folder / path)
        modules.append({"idx": index, "name": str(index), "path": path, "type": _LEGACY_TYPE[kind]})
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "config_sentence_transformers.json", {"__version__": {}, **prompts_of(base_folder)})


def _copy_transformer_files(model: "SentenceTransformer", base_folder: Path, folder: Path) -> None:
    for name in ("config.json", *TOKENIZER_FILES):
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": model.max_seq_length, "do_lower_case": bool(getattr(model[0], "do_lower_case", False))},
    )


def _write_module(kind: str, module: Any, folder: Path) -> None:
    if kind == "Transformer":
        with tempfile.TemporaryDirectory(dir=folder) as saved, without_transformers_bars():
            module.auto_model.float().save_pretrained(saved, max_shard_size="1TB")
            Path(saved, "model.safetensors").rename(folder / "model.safetensors")
            if not (folder / "config.json").is_file():
                Path(saved, "config.json").rename(folder / "config.json")
    elif kind == "Pooling":
        modes = _pooling_modes(module)
        config = {"word_embedding_dimension": module.embedding_dimension}
        config |= {key: mode in modes for mode, key in _POOLING_KEYS.items()}
        _write_json(folder / "config.json", config | {"include_prompt": module.include_prompt})
    elif kind == STATIC:
        module.save(str(folder))
    elif kind == "Dense":
        module.save(str(folder))
        _write_json(folder / "config.json", _portable_dense_config(module))


def _pooling_modes(module: Any) -> list[str]:
    return [module.pooling_mode] if isinstance(module.pooling_mode, str) else list(module.pooling_mode)


def _portable_dense_config(module: Any) -> dict[str, Any]:
    """Return a Dense layer's config without the keys that sentence-transformers before 5 rejects.

    Raises:
        ModelFolderError: If one of these keys changes what the layer computes.
    """
    config = module.get_config_dict()
    features = {config.get("module_input_name"), config.get("module_output_name")} - {None, "sentence_embedding"}
    if features or config.get("use_residual"):
        raise ModelFolderError(
            f"the model has a Dense layer with {'a residual' if not features else f'features {sorted(features)}'}, "
            "which not every DocsGPT can load; use another base model"
        )
    return {key: config[key] for key in ("in_features", "out_features", "bias", "activation_function")}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _prove_that_it_loads(model: "SentenceTransformer", folder: Path) -> None:
    import numpy as np

    probes = ["How do I rotate the log files?", "word " * 600, "ünïcödé, 数据, 🙂"]
    served = load_model(folder, device="cpu").encode(probes)  # (3, D)
    gc.collect()  # unmaps the file of weights: Windows renames no folder with an open file in it
    tuned = model.encode(probes)
    if not np.isfinite(served).all():
        raise ModelFolderError("the tuned model gives vectors that are not finite; lower --learning-rate")
    norms = np.linalg.norm(served, axis=1)
    if not all(math.isclose(norm, 1.0, abs_tol=1e-3) for norm in norms):
        raise ModelFolderError(f"the written model's vectors are not unit-norm ({norms.tolist()})")
    if not np.allclose(served, tuned, atol=1e-3):
        raise ModelFolderError(
            f"the written model differs from the tuned one by {np.abs(served - tuned).max():.1e}; "
            "please report this base model"
        )

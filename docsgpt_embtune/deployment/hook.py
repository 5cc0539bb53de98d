"""The hook in an unmodified DocsGPT: tuned folders are answered for where the host makes its embeddings.

A `.pth` file imports this module at every start of the host's Python, so it imports nothing but what is there
already, and whatever goes wrong in it is logged and never raised. It acts on one module, when the host
imports it, and on folders that carry `embtune.json`; every other name goes the host's own way.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # spelled by hand: to import typing would cost each of the host's starts some milliseconds
    from typing import Any

MODULE = "application.vectorstore.base"
# Set to "off" to start the host without the hook.
SWITCH = "EMBTUNE_HOOK"


def activate() -> None:
    """Wait for the host's module; to call it twice does no more than once."""
    is_off = os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no")
    if not is_off and not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def wrap(host: Any) -> None:
    """Answer for tuned folders in DocsGPT's `EmbeddingsSingleton`, from 0.10 on.

    Args:
        host: The imported `application.vectorstore.base`.
    """
    if hasattr(host, "embeddings_factory"):  # our own seam, where the plugin registers itself
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
            # The host turns it into an empty search result; the reason must not get lost on the way.
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
    """A finder that finds nothing itself: it has the host's module wrapped as soon as it has run."""

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

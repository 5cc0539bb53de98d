"""Install the hook in a Python environment, uninstall it, and report its status."""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import docsgpt_embtune
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.files import write_text_atomically

PTH_NAME = "docsgpt_embtune.pth"
# One line, as `.pth` files require. If the package is missing or broken while the file is still there, the host starts
# all the same, and its log says why the plugin does not load the tuned model.
PTH_LINE = (
    "import sys; exec("
    '"try:\\n import docsgpt_embtune.deployment.hook\\n'
    "except Exception as error:\\n print('docsgpt-embtune: the hook is not active:', repr(error), file=sys.stderr)\""
    ")\n"
)

_ASK = """
import json, sys, sysconfig
hook_name = "docsgpt_embtune.deployment.hook"
active = any(type(finder).__module__ == hook_name for finder in sys.meta_path)  # before the import, which activates it
try:
    import docsgpt_embtune.deployment.hook as hook
    package, problem = hook.__file__, None
except Exception as error:
    package, problem = None, repr(error)
site = sysconfig.get_path("purelib")
print(json.dumps({"site": site, "active": active, "package": package, "problem": problem}))
"""


@dataclass(frozen=True)
class HookStatus:
    """The hook's status in an environment.

    Attributes:
        python: The environment's interpreter.
        pth: Where the hook's `.pth` file is, or would be.
        installed: Whether the file is there.
        current: Whether its content is what this version writes.
        importable: Whether the interpreter can import docsgpt-embtune without PYTHONPATH.
        problem: The import's error message, if it failed.
        active: Whether the interpreter's start activated the hook, as DocsGPT's start does.
    """

    python: Path
    pth: Path
    installed: bool
    current: bool
    importable: bool
    problem: str | None
    active: bool


def hook_status(python: Path) -> HookStatus:
    """Ask an environment's own interpreter what it would do when DocsGPT starts it.

    Args:
        python: The interpreter that runs DocsGPT, e.g. `/venv/bin/python`.

    Raises:
        DeploymentError: If there is no such interpreter, or it does not answer.
    """
    try:
        # -P and no PYTHONPATH: the host is started without this folder and this shell's packages.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        asked = subprocess.run(
            [str(python), "-P", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True, env=environment
        )
        answer = json.loads(asked.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise DeploymentError(
            f"{python}: does not run as a Python interpreter ({_why(error)}); give --python the one that runs DocsGPT"
        ) from error
    pth = Path(answer["site"]) / PTH_NAME
    found = pth.read_text(encoding="utf-8") if pth.is_file() else None
    return HookStatus(
        python=python,
        pth=pth,
        installed=found is not None,
        current=found == PTH_LINE,
        importable=answer["package"] is not None,
        problem=answer["problem"],
        active=answer["active"],
    )


def _why(error: Exception) -> str:
    """Return the last line of the interpreter's stderr, since the error's own text repeats the whole `_ASK` program."""
    if isinstance(error, subprocess.CalledProcessError):
        return (str(error.stderr).strip().splitlines() or [f"exit code {error.returncode}"])[-1]
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer in {error.timeout:.0f} seconds"
    return str(error)


def install_hook(python: Path) -> HookStatus:
    """Write the hook's `.pth` into an environment; repeating it changes nothing.

    Raises:
        DeploymentError: If docsgpt-embtune cannot be imported there, or the file cannot be written.
    """
    status = hook_status(python)
    require_importable(status)
    if not status.current:
        try:
            write_text_atomically(status.pth, PTH_LINE)
        except OSError as error:
            raise DeploymentError(
                f"{status.pth}: cannot be written ({error.strerror}); run as the environment's owner"
            ) from error
    return hook_status(python)


def require_importable(status: HookStatus) -> None:
    """Raise DeploymentError if an environment's Python cannot import docsgpt-embtune."""
    if not status.importable:
        raise DeploymentError(
            f"{status.python}: docsgpt-embtune cannot be imported there ({status.problem}); run first: "
            f"{shlex.quote(str(status.python))} -m pip install --no-deps {_source_in_words()}"
        )


def _source_in_words() -> str:
    """Return what pip can install this package from, quoted for a shell, or words for it where that is not known."""
    checkout = Path(docsgpt_embtune.__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        return shlex.quote(str(checkout))
    return "with the folder or wheel that this one was installed from"


def uninstall_hook(python: Path) -> HookStatus:
    """Remove the `.pth` and nothing else; repeating it changes nothing.

    Raises:
        DeploymentError: If the interpreter does not answer, or the file cannot be removed.
    """
    status = hook_status(python)
    try:
        status.pth.unlink(missing_ok=True)
    except OSError as error:
        raise DeploymentError(
            f"{status.pth}: cannot be removed ({error.strerror}); run as the environment's owner"
        ) from error
    return hook_status(python)

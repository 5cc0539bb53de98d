"""The hook in an unmodified host, in processes of their own as the host is."""

import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

import docsgpt_embtune
from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment.install import PTH_LINE, hook_status, install_hook, uninstall_hook
from docsgpt_embtune.errors import DeploymentError

ROOT = Path(__file__).parents[2]

# What of DocsGPT's module the hook relies on, in its own shape: a factory inside a static method.
HOST = """
class EmbeddingsSingleton:
    _instances = {}

    @staticmethod
    def get_instance(name, *args, **kwargs):
        return EmbeddingsSingleton._create_instance(name, *args, **kwargs)

    @staticmethod
    def _create_instance(name, *args, **kwargs):
        return ("stock", name, args)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment of its own that sees this checkout and this interpreter's packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    (site / "a.pth").write_text(f"{ROOT}\n{packages}\n")
    return folder / "bin" / "python"


@pytest.fixture
def hooked(environment):
    install_hook(environment)
    yield environment
    uninstall_hook(environment)


@pytest.fixture
def host(tmp_path):
    package = tmp_path / "application" / "vectorstore"
    package.mkdir(parents=True)
    (tmp_path / "application" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(HOST)
    return tmp_path


def run(python, host, code, **environment):
    finished = subprocess.run(
        [str(python), "-W", "ignore", "-c", code],
        cwd=host, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished


ASK = "from application.vectorstore.base import EmbeddingsSingleton as E; print(type(E.get_instance({!r})).__name__)"


def test_tuned_folder_is_ours_and_every_other_name_the_hosts(hooked, host, tiny_tuned_folder, tiny_base_folder):
    assert run(hooked, host, ASK.format(str(tiny_tuned_folder))).stdout.strip() == "TunedEmbeddings"
    assert run(hooked, host, ASK.format(str(tiny_base_folder))).stdout.strip() == "tuple"
    assert run(hooked, host, ASK.format("huggingface_hkunlp/instructor-large")).stdout.strip() == "tuple"


def test_host_gets_what_was_passed_with_a_name_of_its_own(hooked, host):
    code = "from application.vectorstore.base import EmbeddingsSingleton as E; print(E.get_instance('openai', 'sk-1'))"
    assert run(hooked, host, code).stdout.strip() == "('stock', 'openai', ('sk-1',))"


def test_without_the_hook_everything_is_the_hosts(environment, host, tiny_tuned_folder):
    assert run(environment, host, ASK.format(str(tiny_tuned_folder))).stdout.strip() == "tuple"


def test_environment_variable_turns_it_off(hooked, host, tiny_tuned_folder):
    off = run(hooked, host, ASK.format(str(tiny_tuned_folder)), EMBTUNE_HOOK="off")
    assert off.stdout.strip() == "tuple"


def test_starting_the_host_imports_nothing_heavy(hooked, host):
    heavy = "{'torch', 'logging', 'typing', 'importlib.util'}"
    code = f"import sys, application.vectorstore.base; print(sorted({heavy} & set(sys.modules)))"
    assert run(hooked, host, code).stdout == run(hooked, host, code, EMBTUNE_HOOK="off").stdout


def test_host_that_changed_starts_and_the_log_says_so(hooked, host):
    (host / "application" / "vectorstore" / "base.py").write_text("LATER = True\n")
    started = run(hooked, host, "import application.vectorstore.base as base; print(base.LATER)")
    assert started.stdout.strip() == "True"
    assert "cannot hook into application.vectorstore.base" in started.stderr


def test_host_that_cannot_be_imported_fails_as_it_would_without_us(hooked, host):
    (host / "application" / "vectorstore" / "base.py").write_text("raise RuntimeError('its own')\n")
    code = "try:\n import application.vectorstore.base\nexcept RuntimeError as error:\n print(error)"
    assert run(hooked, host, code).stdout.strip() == "its own"


def test_package_gone_but_hook_left_behind_does_not_stop_python(environment, host):
    pth = hook_status(environment).pth
    pth.write_text(PTH_LINE)
    checkout = pth.with_name("a.pth")
    paths = checkout.read_text()
    checkout.unlink()
    try:
        started = run(environment, host, "print('up')")
    finally:
        checkout.write_text(paths)
        pth.unlink()
    assert started.stdout.strip() == "up"
    assert "docsgpt-embtune: the hook is not active: ModuleNotFoundError" in started.stderr


def test_damaged_model_raises_and_the_log_says_which(hooked, host, tiny_tuned_folder, tmp_path):
    damaged = shutil.copytree(tiny_tuned_folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"")
    code = f"try:\n {ASK.format(str(damaged))}\nexcept Exception as error:\n print(type(error).__name__)"
    started = run(hooked, host, code)
    assert started.stdout.strip() == "ModelFolderError"
    assert f"cannot load the tuned model {damaged}" in started.stderr


def test_install_twice_and_uninstall_twice_leave_no_trace(environment):
    site = hook_status(environment).pth.parent
    before = sorted(path.name for path in site.iterdir())
    assert not hook_status(environment).installed
    assert install_hook(environment).current
    assert install_hook(environment).installed
    assert not uninstall_hook(environment).installed
    uninstall_hook(environment)
    assert sorted(path.name for path in site.iterdir()) == before


def test_older_hook_is_replaced(environment):
    pth = hook_status(environment).pth
    pth.write_text("import docsgpt_embtune\n")
    assert hook_status(environment).installed
    assert not hook_status(environment).current
    assert install_hook(environment).current
    uninstall_hook(environment)


@pytest.fixture
def bare(tmp_path):
    """A Python that lacks the package."""
    venv.create(tmp_path / "bare one", symlinks=True, with_pip=False)
    return tmp_path / "bare one" / "bin" / "python"


def test_package_that_was_not_installed_from_a_checkout_is_advised_in_words(bare, tmp_path, monkeypatch):
    elsewhere = tmp_path / "site-packages" / "docsgpt_embtune" / "__init__.py"
    monkeypatch.setattr(docsgpt_embtune, "__file__", str(elsewhere))
    with pytest.raises(DeploymentError, match="--no-deps with the folder or wheel that this one was installed from"):
        install_hook(bare)


def test_status_tells_whether_the_start_activates_the_hook(hooked, monkeypatch):
    on = CliRunner().invoke(main, ["status", "--python", str(hooked)])
    assert (on.exit_code, on.stdout.splitlines()[-1]) == (0, "at its start  active")
    monkeypatch.setenv("EMBTUNE_HOOK", "off")
    off = CliRunner().invoke(main, ["status", "--python", str(hooked)])
    assert (off.exit_code, off.stdout.splitlines()[-2]) == (1, "package       importable")
    assert "at its start  not active; see that EMBTUNE_HOOK is not off here" in off.stdout
    uninstall_hook(hooked)
    assert "at its start  not active\n" in CliRunner().invoke(main, ["status", "--python", str(hooked)]).stdout


def test_environment_without_the_package_is_refused(bare, tmp_path):
    with pytest.raises(DeploymentError) as refused:
        install_hook(bare)
    assert str(refused.value).endswith(f"; run first: '{bare}' -m pip install --no-deps {shlex.quote(str(ROOT))}")
    with pytest.raises(DeploymentError, match="does not run as a Python interpreter"):
        hook_status(tmp_path / "absent")


@pytest.mark.parametrize("hook_is_there", [True, False])
def test_install_says_as_status_does_that_the_package_is_gone(bare, hook_is_there, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of this shell, and not of the host's service
    pth = hook_status(bare).pth
    if hook_is_there:
        pth.write_text(PTH_LINE)
    installed, asked = (CliRunner().invoke(main, [name, "--python", str(bare)]) for name in ("install", "status"))
    assert (installed.exit_code, installed.stdout) == (2, "")
    assert "cannot be imported there (ModuleNotFoundError(\"No module named 'docsgpt_embtune'\"))" in installed.stderr
    assert asked.exit_code == 1
    assert "package       cannot be imported: ModuleNotFoundError" in asked.stdout
    assert pth.exists() == hook_is_there


def test_what_a_failing_interpreter_says_is_passed_on_and_nothing_else(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'unknown option: -P' >&2\nexit 2\n")
    python.chmod(0o755)
    with pytest.raises(DeploymentError, match=r"interpreter \(unknown option: -P\); give --python"):
        hook_status(python)

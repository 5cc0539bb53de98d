"""`embtune install`, `uninstall` and `status`: manage the hook in DocsGPT's Python."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from docsgpt_embtune.cli.command import EXIT_NO, EmbtuneCommand

if TYPE_CHECKING:
    from docsgpt_embtune.deployment.install import HookStatus

PYTHON_OPTION = click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=Path(sys.executable),
    show_default="this one",
    help="The interpreter that runs DocsGPT, e.g. /venv/bin/python.",
)


@click.command(cls=EmbtuneCommand)
@PYTHON_OPTION
@click.option("--yes", is_flag=True, help="Write without asking.")
def install(python: Path, yes: bool) -> None:
    """Let an unmodified DocsGPT load tuned folders.

    It does so through the plugin, the web process and the worker alike.
    """
    from docsgpt_embtune.deployment.install import PTH_LINE, hook_status, install_hook, require_importable

    status = hook_status(python)
    require_importable(status)
    if status.current:
        click.echo(f"already installed: {status.pth}")
        return
    click.echo(f"to be written to {status.pth}:\n\n{PTH_LINE}")
    if not yes:
        click.confirm("write it?", abort=True)
    install_hook(python)
    click.echo("installed; restart DocsGPT's web process and its Celery worker (EMBTUNE_HOOK=off turns the hook off)")


@click.command(cls=EmbtuneCommand)
@PYTHON_OPTION
def uninstall(python: Path) -> None:
    """Remove what `install` wrote."""
    from docsgpt_embtune.deployment.install import hook_status, uninstall_hook

    if not hook_status(python).installed:
        click.echo("not installed")
        return
    click.echo(f"removed {uninstall_hook(python).pth}; restart DocsGPT's web process and its Celery worker")


@click.command(cls=EmbtuneCommand)
@PYTHON_OPTION
def status(python: Path) -> None:
    """Say whether the hook is in force; exit code 1 if it is not.

    The interpreter is started as DocsGPT starts it, but with the EMBTUNE_HOOK of this shell.
    """
    from docsgpt_embtune.deployment.install import hook_status

    found = hook_status(python)
    click.echo(f"environment   {python}")
    click.echo(f"hook          {'installed' if found.installed else 'not installed'}: {found.pth}")
    if found.installed and not found.current:
        click.echo("              of another version; run: embtune install")
    click.echo(f"package       {'importable' if found.importable else f'cannot be imported: {found.problem}'}")
    click.echo(f"at its start  {'active' if found.active else f'not active{_why_not_active(found)}'}")
    if not (found.current and found.importable and found.active):
        sys.exit(EXIT_NO)


def _why_not_active(found: "HookStatus") -> str:
    if not (found.current and found.importable):
        return ""
    return "; see that EMBTUNE_HOOK is not off here, and that this Python reads .pth files in that folder"

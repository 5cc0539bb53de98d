"""The class of the commands: how they report errors, what their output withstands, and how they end."""

import errno
import io
import os
import re
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from docsgpt_embtune.errors import EmbtuneError
from docsgpt_embtune.files import tells_of_full_disk
from docsgpt_embtune.stopping import ToldInterrupt

# Deployment commands need only packages that DocsGPT has already; any other missing package is in this extra.
INSTALL = "pip install 'docsgpt-embtune[train]'"
_EXIT_SIGINT, _EXIT_SIGTERM = 128 + signal.SIGINT, 128 + signal.SIGTERM  # as in shells
_FULL_DISK = f"a disk is full ({os.strerror(errno.ENOSPC)}); make room, or give paths on another one"
_FULL_GPU = "OutOfMemoryError"  # the name of torch's error; torch is not imported here
_CONTROLS = re.compile(r"\x1b(?!\[A)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")  # but a progress bar's own
EXIT_NO = 1  # done, and the answer is no: not proven, not better, not healthy


def end_with(summary: str, folder: Path | None) -> None:
    """Print a command's summary, and exit with code 1 if it wrote no folder."""
    click.echo(summary)
    if folder is None:
        sys.exit(EXIT_NO)


class EmbtuneCommand(click.Command):
    """A command that reports errors which the user can fix as one line on stderr, with exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what cannot be read, and repeated values of an option that takes one.

        click would silently drop all but the last of these.
        """
        _refuse_unreadable(args)
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.is_flag):
                raise click.BadParameter(
                    f"given {times} times, and takes one value; leave out all but one", ctx, option
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and report library errors, missing packages and file errors in one line each."""
        # Read when torch is first imported. Without it, torch's threads spin while one of them waits for a busy core.
        # With one of two cores busy, encoding took 1.7 times as long and a training step 1.6 times; on an idle machine
        # the difference is a tenth at most.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        _make_output_robust()
        try:
            with _tidied_up_on_sigterm():
                return super().invoke(ctx)
        except EmbtuneError as error:
            _exit_with(str(error))
        except ImportError as error:
            if _is_our_own(error):
                raise
            _exit_with(f"{error}; run: {INSTALL}")
        except KeyboardInterrupt as error:  # click would exit with 1, which means "no"
            _exit_stopped(error)
        except OSError as error:
            if not (trouble := _trouble_with_files(error)):
                raise
            _exit_with(trouble)
        except Exception as error:
            if not (trouble := _exhausted_resource(error)):
                raise
            _exit_with(trouble)


def _refuse_unreadable(args: Iterable[str]) -> None:
    """Refuse letters outside this Python's encoding: as a path they would end in tracebacks of several libraries."""
    encoding = sys.getfilesystemencoding()
    for argument in args:
        if encoding != "utf-8" and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise click.UsageError(
                f"{argument!r}: has letters that are not in this Python's encoding ({encoding}); set PYTHONUTF8=1"
            )


def _trouble_with_files(error: OSError) -> str:
    """Say which file or disk an error is about; empty if it is about none, so that the user cannot fix it."""
    path = error.filename2 or error.filename  # for a rename, the first is the path that the user gave
    if tells_of_full_disk(error):
        return f"{path}: {_FULL_DISK}" if path else _FULL_DISK  # no path if the file was open
    if isinstance(path, str | Path):
        return f"{path}: {error.strerror}; give another path, or see to its rights and the room on its disk"
    try:
        tempfile.gettempdir()
    except OSError:  # as in a container with a read-only file system; libraries say this in errors of their own
        return "no folder for temporary files can be written to; set TMPDIR to one that can"
    return ""


def _exhausted_resource(error: Exception) -> str:
    """Say which resource is exhausted, if a library's own error tells of one; empty for any other error."""
    if tells_of_full_disk(error):
        return _FULL_DISK  # on a full disk, safetensors and torch raise errors of their own
    if type(error).__name__ == _FULL_GPU:
        return (
            f"the GPU's memory is full ({str(error).partition('. ')[0]}); end what else uses it, give a smaller model, "
            "or use the processor (--device cpu, or EMBTUNE_DEVICE=cpu)"
        )
    return ""


class _IgnoresClosedPipe(io.FileIO):
    """The raw file of a stream, which discards output once the reader has closed the pipe."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(content)


class _ShowsControls(io.TextIOWrapper):
    """A text stream that shows control characters, since a terminal would obey those of somebody else's texts."""

    def write(self, text: str, /) -> int:
        super().write(_CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text))
        return len(text)


def _make_output_robust() -> None:
    """Let output survive a closed pipe, as after `| head`, characters that the stream's encoding lacks, and controls.

    The command then runs to its end, with the same files and exit code.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):  # not a test's stream
            setattr(sys, name, _lasting(stream))


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.reconfigure(errors="backslashreplace")
    file = _IgnoresClosedPipe(stream.fileno(), "w", closefd=False)
    return _ShowsControls(
        file if stream.write_through else io.BufferedWriter(file),
        stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextmanager
def _tidied_up_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise in the block, so that it cleans up as after Ctrl-C; a second SIGTERM kills the process."""
    is_main = threading.current_thread() is threading.main_thread()  # only it may set a handler
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    own_process = os.getpid()

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != own_process:  # in a fork, which has nothing to clean up
            os.kill(os.getpid(), number)
        sys.exit(_EXIT_SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_our_own(error: ImportError) -> bool:
    package = (error.name or "").partition(".")[0]
    return package == "docsgpt_embtune" or package in sys.stdlib_module_names


def _exit_stopped(error: KeyboardInterrupt) -> NoReturn:
    if not isinstance(error, ToldInterrupt):
        click.echo("stopped", err=True)
    sys.exit(_EXIT_SIGINT)


def _exit_with(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)

"""What the commands share: how an error is shown, and the options that several of them take."""

import errno
import io
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.destinations import fault_of_destination
from docsgpt_embtune.errors import DatasetError, EmbtuneError
from docsgpt_embtune.files import tells_of_full_disk
from docsgpt_embtune.stopping import ToldInterrupt

# Deployment needs what DocsGPT has already; whatever else a command may miss is in this extra.
INSTALL = "pip install 'docsgpt-embtune[train]'"
_MINUTES_PER_UNIT = {"s": 1 / 60, "m": 1.0, "h": 60.0}
_EXIT_SIGINT, _EXIT_SIGTERM = 128 + signal.SIGINT, 128 + signal.SIGTERM  # as shells have it
_FULL_DISK = f"a disk is full ({os.strerror(errno.ENOSPC)}); make room, or give paths on another one"
_FULL_GPU = "OutOfMemoryError"  # the name of what torch raises; torch is not imported here
EXIT_NO = 1  # done, and the answer is no: not proven, not better, not healthy


def end_with(summary: str, folder: Path | None) -> None:
    """Print what a command made, and end with exit code 1 where that is no folder."""
    click.echo(summary)
    if folder is None:
        sys.exit(EXIT_NO)


class EmbtuneCommand(click.Command):
    """A command in which an error that the user can mend is one line on stderr and exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a second value of an option that takes one, of which click would drop the first without a word."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.is_flag):
                raise click.BadParameter(
                    f"given {times} times, and takes one value; leave out all but one", ctx, option
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning what the library raises, a missing package and a file's trouble into one line."""
        # Read as torch is first imported. Its threads else spin while one waits for a core that has other work: beside
        # a busy one of two, encoding took 1.7 times as long and a step 1.6; on a quiet machine it is a tenth at most.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        _print_whatever_happens()
        try:
            with _tidied_up_on_sigterm():
                return super().invoke(ctx)
        except EmbtuneError as error:
            _exit_with(str(error))
        except ImportError as error:
            if _is_our_own(error):
                raise
            _exit_with(f"{error}; run: {INSTALL}")
        except KeyboardInterrupt as error:  # click would end as where the answer is no
            _exit_stopped(error)
        except OSError as error:
            # Of a rename the second is what the user named. Without any it is no file's, and not for the user to mend.
            path = error.filename2 or error.filename
            if tells_of_full_disk(error):
                _exit_with(f"{path}: {_FULL_DISK}" if path else _FULL_DISK)  # writing to an open file names none
            if not isinstance(path, str | Path):
                raise
            _exit_with(f"{path}: {error.strerror}; give another path, or see to its rights and the room on its disk")
        except Exception as error:
            if not (trouble := _trouble_of_the_machine(error)):
                raise
            _exit_with(trouble)


def _trouble_of_the_machine(error: Exception) -> str:
    """Say what is full where a library has a class of its own for it; nothing of any other error."""
    if tells_of_full_disk(error):
        return _FULL_DISK  # safetensors and torch write weights
    if type(error).__name__ == _FULL_GPU:
        return (
            f"the GPU's memory is full ({str(error).partition('. ')[0]}); end what else uses it, give a smaller model, "
            "or use the processor (--device cpu, or EMBTUNE_DEVICE=cpu)"
        )
    return ""


class _Unheard(io.FileIO):
    """The file below a stream, which takes what nobody reads any more."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(content)


def _print_whatever_happens() -> None:
    """Let a command outlive who reads it, as `head` does not, and say letters that a stream's encoding does not have.

    It goes on, so that its files and its exit code are those that it would have had.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):  # and no test's
            setattr(sys, name, _lasting(stream))


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.reconfigure(errors="backslashreplace")
    if stream.isatty():
        return stream
    file = _Unheard(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file),
        stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextmanager
def _tidied_up_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that it removes what it has begun; a second one ends it at once."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    own_process = os.getpid()

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != own_process:  # a fork, which has begun nothing of its own
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


def refuse_unwritable(*files: Path | None, read: Iterable[Path | None] = ()) -> None:
    """Raise DatasetError where files cannot be written, before the work, which may be long or paid.

    Args:
        *files: To be written, each to a place of its own.
        read: What must not be written over.
    """
    seen = {path.resolve() for path in read if path is not None}
    for path in filter(None, files):
        if str(path) == "-":
            raise DatasetError("'-': standard output has what the command says; give the name of a file")
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise DatasetError(f"{path}: is {kind}, and not a file that can be replaced; give the name of a file")
        if fault := fault_of_destination(path):
            raise DatasetError(f"{path}: {fault}; give another path")
        if path.resolve() in seen:
            raise DatasetError(f"{path}: is named twice, or read, and would be written over; give another path")
        seen.add(path.resolve())


def hide_loading_bars() -> None:
    """Keep the bars of what takes no time from standing among those that tell the time left."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the folder that vectors are kept in, which is the user's own cache folder by default."""

    def folder(_context: click.Context, _option: click.Parameter, given: Path | None) -> Path:
        from docsgpt_embtune.evaluation.vector_cache import default_cache_folder

        return given or default_cache_folder()

    return click.option(
        "--cache",
        type=click.Path(path_type=Path),
        callback=folder,
        help="Folder that keeps vectors; your cache folder if not given.",
    )(function)


def relevant_docs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flag that settles what an ambiguous file means."""
    return click.option(
        "--relevant-docs",
        type=click.Choice(get_args(RelevantDocs)),
        help="What two ids of a question in relevant_docs are, where the file itself does not say.",
    )(function)


def whole_numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Read an option such as 256,128,64; nothing where it is not given."""
    try:
        return tuple(int(number) for number in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 64,128") from error


def minutes(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read an option such as 90s, 10m, 1.5h, or a number of minutes; None where it is not given."""
    if value is None:
        return None
    number, unit = (value[:-1], value[-1]) if value[-1:] in _MINUTES_PER_UNIT else (value, "m")
    try:
        time = float(number) * _MINUTES_PER_UNIT[unit]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a time like 90s, 10m or 1.5h") from error
    if not 0 < time < math.inf:
        raise click.BadParameter(f"{value!r}: give a time above 0 that ends, such as 10m")
    return time


def load_guard(option: str, relevant_docs: RelevantDocs | None) -> RetrievalDataset:
    """Read what a --guard names: FILE, or FILE,CORPUS."""
    questions, _, corpus = option.partition(",")
    try:
        return load_dataset(questions, corpus=corpus or None, relevant_docs=relevant_docs)
    except DatasetError as error:  # a guard has chunks of its own: --corpus is what the questions are asked over
        raise DatasetError(str(error).replace("with --corpus", f"as --guard {questions},CORPUS")) from error

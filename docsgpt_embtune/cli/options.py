"""Options that several commands have, and the reading of their values."""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import click

from docsgpt_embtune.data.dataset import RetrievalDataset, load_dataset
from docsgpt_embtune.data.formats.options import RelevantDocs
from docsgpt_embtune.destinations import fault_of_destination
from docsgpt_embtune.errors import DatasetError

_TIME = re.compile(r"(?:(\d*\.?\d+)h)?(?:(\d*\.?\d+)m)?(?:(\d*\.?\d+)s)?")


def refuse_unwritable(*files: Path | None, read: Iterable[Path | None] = ()) -> None:
    """Raise DatasetError if output files cannot be written, before work that may be long or paid.

    Args:
        *files: Output files, each with a path of its own.
        read: Input files, which must not be overwritten.
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


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several options, which --help lists in this order."""

    def add(function: Any) -> Any:
        for option in reversed(options):  # the last one applied comes first in --help
            function = option(function)
        return function

    return add


def _cache_folder(_context: click.Context, _option: click.Parameter, given: Path | None) -> Path | None:
    from docsgpt_embtune.evaluation.vector_cache import default_cache_folder

    return given or default_cache_folder()


cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    callback=_cache_folder,
    help="Folder that keeps vectors; your cache folder if not given, and none if that cannot be written to.",
)
relevant_docs_option = click.option(
    "--relevant-docs",
    type=click.Choice(get_args(RelevantDocs)),
    help="What two ids of a question in relevant_docs are, where the file itself does not say.",
)


def whole_numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Parse an option such as 256,128,64; empty if it is not given."""
    try:
        return tuple(int(number) for number in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 64,128") from error


def minutes(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Parse an option such as 90s, 10m, 1h30m or a number of minutes, into minutes; None if it is not given."""
    if value is None:
        return None
    try:
        time = float(value)
    except ValueError:
        parts = _TIME.fullmatch(value)
        if not value or parts is None:
            raise click.BadParameter(f"{value!r} is not a time like 90s, 10m or 1h30m") from None
        time = sum(float(number or 0) * unit for number, unit in zip(parts.groups(), (60, 1, 1 / 60), strict=True))
    if not 0 < time < math.inf:
        raise click.BadParameter(f"{value!r}: give a time above 0 that ends, such as 10m")
    return time


def load_guard(option: str, relevant_docs: RelevantDocs | None) -> RetrievalDataset:
    """Load the guard set that a --guard names: FILE, or FILE,CORPUS."""
    questions, _, corpus = option.partition(",")
    try:
        return load_dataset(questions, corpus=corpus or None, relevant_docs=relevant_docs)
    except DatasetError as error:  # --corpus belongs to the main questions, and a guard has chunks of its own
        raise DatasetError(str(error).replace("with --corpus", f"as --guard {questions},CORPUS")) from error

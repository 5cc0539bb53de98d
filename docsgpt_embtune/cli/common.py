"""What the commands share: how an error is shown, and the options that several of them take."""

import sys
from collections.abc import Callable
from typing import Any

import click

from docsgpt_embtune.errors import EmbtuneError

EXIT_NO = 1  # done, and the answer is no: not proven, not better, not healthy


class EmbtuneCommand(click.Command):
    """A command in which an error that the user can mend is one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning what the library raises into one line."""
        try:
            return super().invoke(ctx)
        except EmbtuneError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


def hide_loading_bars() -> None:
    """Keep the bars of what takes no time from standing among those that tell the time left."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def relevant_docs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flag that settles what an ambiguous file means."""
    return click.option(
        "--relevant-docs",
        type=click.Choice(["good-bad", "all-good"]),
        help="What two ids of a question in relevant_docs are, where the file itself does not say.",
    )(function)

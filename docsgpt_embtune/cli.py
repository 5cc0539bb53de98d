"""`embtune`: parse, call the library once, print. Exit codes: 0 done, 1 done but the answer is no, 2 bad input."""

import sys
from collections.abc import Callable
from typing import Any

import click

from docsgpt_embtune.errors import EmbtuneError

EXIT_NO = 1  # done, and the answer is no: not proven, not better, not healthy


class EmbtuneGroup(click.Group):
    """A command group in which an error that the user can mend is one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning what the library raises into one line."""
        try:
            return super().invoke(ctx)
        except EmbtuneError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


def relevant_docs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flag that settles what an ambiguous file means."""
    return click.option(
        "--relevant-docs",
        type=click.Choice(["good-bad", "all-good"]),
        help="What two ids of a question in relevant_docs are, where the file itself does not say.",
    )(function)


@click.group(cls=EmbtuneGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="docsgpt-embtune")
def main() -> None:
    """Tune DocsGPT's embeddings on your own questions, prove the gain, deploy it safely."""

"""The command line `embtune`: each command parses its options, calls the library and prints the result.

Exit codes: 0 done, 1 done but the answer is no, 2 bad input.
"""

import click

from docsgpt_embtune import __version__
from docsgpt_embtune.cli import (
    adapt,
    check,
    chunks,
    doctor,
    export,
    harvest,
    install,
    prepare,
    reembed,
    serve,
    smaller,
    synthesize,
    train,
)


class _InOrder(click.Group):
    """A group that lists its commands in the order in which they were added, not alphabetically."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tune DocsGPT's embeddings on your own questions, prove the gain, deploy it safely."""


for command in (  # in the order in which a user needs them
    chunks.chunks,
    harvest.harvest,
    synthesize.synthesize,
    prepare.convert,
    prepare.prepare,
    train.sample,
    train.train,
    adapt.adapt,
    check.check,
    export.export,
    smaller.shrink,
    smaller.distill,
    install.install,
    install.status,
    install.uninstall,
    reembed.reembed,
    doctor.doctor,
    reembed.forget,
    serve.serve,
):
    main.add_command(command)

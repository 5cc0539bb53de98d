"""`embtune`: parse, call the library once, print. Exit codes: 0 done, 1 done but the answer is no, 2 bad input."""

import click

from docsgpt_embtune import __version__
from docsgpt_embtune.cli import (
    adapt,
    check,
    chunks,
    data,
    export,
    harvest,
    install,
    reembed,
    serve,
    small,
    synthesize,
    train,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tune DocsGPT's embeddings on your own questions, prove the gain, deploy it safely."""


for command in (
    data.convert,
    data.prepare,
    train.sample,
    train.train,
    chunks.chunks,
    harvest.harvest,
    synthesize.synthesize,
    check.check,
    small.shrink,
    small.distill,
    export.export,
    install.install,
    install.uninstall,
    install.status,
    reembed.reembed,
    reembed.doctor,
    adapt.adapt,
    serve.serve,
):
    main.add_command(command)

"""`embtune`: parse, call the library once, print. Exit codes: 0 done, 1 done but the answer is no, 2 bad input."""

import click

from docsgpt_embtune import __version__
from docsgpt_embtune.cli import check, data, deploy, gateway, gather, serve, small, train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tune DocsGPT's embeddings on your own questions, prove the gain, deploy it safely."""


for command in (
    data.convert,
    data.prepare,
    train.sample,
    train.train,
    gather.chunks,
    gather.harvest,
    gather.synthesize,
    check.check,
    small.shrink,
    small.distill,
    serve.export,
    deploy.install,
    deploy.uninstall,
    deploy.status,
    deploy.reembed,
    deploy.doctor,
    gateway.adapt,
    gateway.serve,
):
    main.add_command(command)

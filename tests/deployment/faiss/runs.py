"""What several of these tests run, and a source that fails."""

import errno
import os

from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.faiss_store import FaissStore

LATE = "A chunk that came in between."


class BreaksAtSwap(FaissStore):
    """A source whose disk fails when it is to be swapped."""

    def swap(self, model):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def switched_to(model, index_folder, environment, stock):
    environment.path.write_text(f"EMBEDDINGS_NAME={stock.folder}\n")
    steps.reembed([FaissStore(index_folder)], model, environment)


def reembed_command(*arguments):
    return CliRunner().invoke(main, ["reembed", *map(str, arguments)])

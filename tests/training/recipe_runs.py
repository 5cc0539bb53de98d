"""What the automatic recipe is tried on, and a stop in the midst of it."""

import random
from contextlib import contextmanager
from dataclasses import replace

import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training import trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.recipe import Automatic

NOUNS = ["log", "worker", "password", "backup", "invoice", "memory", "account", "link", "disk", "customer"]
VERBS = ["kept", "restarted", "reset", "verified", "cancelled", "written", "moved", "lost", "found", "sold"]
CORPUS = {f"{n}-{v}": f"every night a {n} is {v} here by hand" for n in NOUNS for v in VERBS}
CONFIG = TrainConfig(precision="fp32", device="cpu")
AUTOMATIC = Automatic()


def dataset(verbs: list[str]) -> RetrievalDataset:
    pairs = [(noun, verb) for noun in NOUNS for verb in verbs]
    return RetrievalDataset(
        queries={f"q-{n}-{v}": f"when is the {n} {v}" for n, v in pairs},
        corpus=CORPUS,
        relevant_docs={f"q-{n}-{v}": (f"{n}-{v}",) for n, v in pairs},
    )


def shuffled(questions: RetrievalDataset, seed: int) -> RetrievalDataset:
    """Let any chunk answer any question; the answers changed about among themselves would still share their verbs."""
    drawn = random.Random(seed)
    return replace(questions, relevant_docs={query_id: (drawn.choice(list(CORPUS)),) for query_id in questions.queries})


TRAINING, VALIDATION = dataset(VERBS[:6]), dataset(VERBS[6:])


@contextmanager
def stopping(at: tuple[str, int]):
    """Stop a run as Ctrl-C does, after a step of the stage whose bar is called so; it must come by there."""
    real = trainer.ProgressBar.on_step_end

    def stop(self, args, state, control, **context):
        real(self, args, state, control, **context)
        if (self.name, state.global_step) == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.ProgressBar, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            yield

"""What the automatic recipe is tried on, and a stop in the midst of it."""

import random
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sentence_transformers import SentenceTransformer

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training import recipe, trainer
from docsgpt_embtune.training.config import TrainConfig
from docsgpt_embtune.training.recipe import Automatic

from .. import sample_questions
from ..sample_questions import NOUNS, VERBS

# Longer than what is asked, so that a question can be made of a part of it.
CORPUS = sample_questions.dataset(verbs=VERBS, chunk="every night a {noun} is {verb} here by hand").corpus
CONFIG = TrainConfig(precision="fp32", device="cpu")
AUTOMATIC = Automatic()


def dataset(verbs: list[str]) -> RetrievalDataset:
    """Ask about some of the chunks, over all of them."""
    return replace(sample_questions.dataset(verbs=verbs), corpus=CORPUS)


def shuffled(questions: RetrievalDataset, seed: int) -> RetrievalDataset:
    """Let any chunk answer any question; the answers changed about among themselves would still share their verbs."""
    drawn = random.Random(seed)
    return replace(questions, relevant_docs={query_id: (drawn.choice(list(CORPUS)),) for query_id in questions.queries})


TRAINING, VALIDATION = dataset(VERBS[:6]), dataset(VERBS[6:])


def what_the_base_finds_first(folder) -> RetrievalDataset:
    """Let that be the truth, so that any large change of the model is for the worse."""
    base = SentenceTransformer(str(folder), device="cpu")
    texts, doc_ids = [f"the {noun} was {verb}" for noun in NOUNS for verb in VERBS], list(CORPUS)
    nearest = (base.encode(texts) @ base.encode(list(CORPUS.values())).T).argmax(axis=1)
    relevant_docs = {text: (doc_ids[row],) for text, row in zip(texts, nearest, strict=True)}
    return RetrievalDataset({text: text for text in texts}, CORPUS, relevant_docs)


@contextmanager
def learning_quickly():
    """Learn as a tiny model with random weights has to: at another rate than a real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "RANKING", replace(recipe.RANKING, batch_size=4, learning_rate=3e-3))
        yield


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

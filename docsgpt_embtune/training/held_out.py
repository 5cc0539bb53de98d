"""Questions to choose by, apart from those to learn from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docsgpt_embtune.data.corpus_questions import MadeQuestions, questions_of_both_kinds
from docsgpt_embtune.data.dataset import RetrievalDataset, without_copies
from docsgpt_embtune.data.split import FEW_QUESTIONS, groups_by_answer, hold_out
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.learned import digests_of, leave_out, without_learned
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.wording import Say, counted

# Held out where no validation questions are given: this share of the questions, or of the chunks where there are
# no questions. With fewer than a hundred, luck does the choosing.
VALIDATION_SHARE = 0.15
ENOUGH_QUESTIONS_TO_CHOOSE_BY = 100
MOST_VALIDATION_CHUNKS = 200  # asked for in either of two ways, where there are no questions
MOST_VALIDATION_QUESTIONS = 1000  # more cost more time, each time that they are asked, than they tell
# Of validation questions that stand or fall together. Flipping the signs of four gains gives sixteen sums, of which the
# largest has p = .0625, and p <= .05 is needed.
FEWEST_GROUPS = 5


def answers_asked_about(questions: RetrievalDataset) -> int:
    """Count the groups of questions that share no good chunk and no wording, each one piece of evidence."""
    return len(groups_by_answer(questions))


def are_few(questions: RetrievalDataset) -> bool:
    """Tell whether questions are too few to hold some out if it can be helped, and enough to be asked in folds."""
    return len(questions) <= FEW_QUESTIONS and answers_asked_about(questions) >= FEWEST_GROUPS


def keep_apart(
    training: RetrievalDataset, validation: RetrievalDataset | None, seed: int, say: Say
) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Make sure that no validation question is trained on."""
    if validation is None:
        training, validation = _hold_some_out(training, seed, say)
    given, training = training, leave_out(training, digests_of(validation))
    if len(training) < len(given):
        say(f"left out of training: {counted(len(given) - len(training), 'question')} that validation asks too")
    if not len(training):
        raise TrainingError("every training question is a validation question too; give different files")
    if shared := _about_the_same_chunks(validation, training):
        say(
            f"{shared:,} of {counted(len(validation), 'validation question')} are about chunks that training questions "
            "are about, too: what these gain, questions about other chunks may not"
        )
    return training, validation


def _hold_some_out(questions: RetrievalDataset, seed: int, say: Say) -> tuple[RetrievalDataset, RetrievalDataset]:
    enough, most = (n / len(questions) for n in (ENOUGH_QUESTIONS_TO_CHOOSE_BY, MOST_VALIDATION_QUESTIONS))
    training, validation = hold_out(questions, min(0.4, max(VALIDATION_SHARE, enough), most), seed)
    say(f"no --val given: {len(validation)} of the questions are held out to choose by")
    return training, validation


def _about_the_same_chunks(validation: RetrievalDataset, training: RetrievalDataset) -> int:
    learned = set(training.good_texts())
    return sum(
        any(validation.corpus[doc_id] in learned for doc_id in good) for good in validation.relevant_docs.values()
    )


def apart_from_learned(
    training: RetrievalDataset | None,
    validation: RetrievalDataset | None,
    made_of: Mapping[str, Any],
    seed: int,
    say: Say,
) -> tuple[RetrievalDataset | None, RetrievalDataset | None]:
    """Keep what a base model has by heart from choosing: it can only get worse at that.

    Args:
        training: Questions to learn from.
        validation: Questions to choose by; of none, some that are new to the base are held out of the training ones.
        made_of: The base model's manifest; an empty one has learned nothing.
        seed: Seed of the holding out.
        say: Takes a line of plain text.

    Raises:
        TrainingError: If too few questions are new to it.
    """
    to_choose_by = training if validation is None else validation
    if to_choose_by is None or len(new := without_learned(to_choose_by, made_of)) == len(to_choose_by):
        return training, validation
    learned = len(to_choose_by) - len(new)
    if answers_asked_about(new) < FEWEST_GROUPS:
        raise TrainingError(
            f"the base model learned from {learned:,} of {counted(len(to_choose_by), 'question')} to choose by, and "
            f"the others are about fewer than {FEWEST_GROUPS} answers; give --val with others, or as --base what "
            "that model was made of, with all questions in --train"
        )
    say(f"not to choose by: {counted(learned, 'question')} that the base model learned from")
    if validation is not None:
        return training, new
    _, validation = _hold_some_out(new, seed, say)
    return leave_out(to_choose_by, digests_of(validation)), validation


ASKED_OF_CHUNKS = "words of the chunks and sentences cut out of them"  # what a manifest calls these questions


def asked_of_chunks(corpus: Mapping[str, str], seed: int, say: Say) -> MadeQuestions:
    """Ask for some of the chunks where there are no questions at all: by their own words, and by sentences cut out.

    Raises:
        TrainingError: If there are too few chunks to do so.
    """
    chunks = without_copies(corpus)  # words of the one would be asked of the other, which would count as wrong
    count = min(MOST_VALIDATION_CHUNKS, round(VALIDATION_SHARE * len(chunks)))
    made = questions_of_both_kinds(chunks, seed, count=count)
    if not len(made.questions):
        raise TrainingError(
            f"{counted(len(chunks), 'chunk')}: too few, or too little prose in them, to ask for some by words "
            "of their own; give questions, with --train"
        )
    say(
        f"no questions given: validation asks for {counted(len(made.questions), 'chunk')}, half of them by words of "
        "their own, the others by a sentence that is cut out of each"
    )
    return made


def asked_in_their_place(
    folder: Path, reading: Reading, corpus: Mapping[str, str], say: Say
) -> RetrievalDataset | None:
    """Ask for chunks by words of their own, where a model has people's questions by heart; None where that is too few.

    They are to be ranked by meaning alone, as keywords find each of these chunks.
    """
    of_chunks = asked_by_their_words(folder, reading, corpus)
    if len(of_chunks) < FEWEST_GROUPS:
        return None
    say(f"instead     {counted(len(of_chunks), 'chunk')} asked for by their own words, by meaning alone")
    return of_chunks


def refuse_too_few_to_choose_by(questions: RetrievalDataset) -> None:
    """Raise TrainingError if no gain on these questions could be told from luck."""
    groups = answers_asked_about(questions)
    if groups < FEWEST_GROUPS:
        raise TrainingError(
            f"{counted(len(questions), 'question')} about {counted(groups, 'answer')} to choose by: fewer than "
            f"{FEWEST_GROUPS} cannot tell any gain from luck, and fifty are better; give more questions, or --val"
        )

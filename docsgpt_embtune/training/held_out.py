"""Validation questions, kept apart from the training questions."""

from collections.abc import Mapping
from pathlib import Path

from docsgpt_embtune.data.corpus_questions import MadeQuestions, questions_of_both_kinds
from docsgpt_embtune.data.dataset import RetrievalDataset, without_copies
from docsgpt_embtune.data.split import FEW_QUESTIONS, groups_by_answer, hold_out
from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.evaluation.chunk_questions import asked_by_their_words
from docsgpt_embtune.manifest import Manifest
from docsgpt_embtune.seen_questions import digests_of, leave_out, without_learned
from docsgpt_embtune.serving.reading import Reading
from docsgpt_embtune.wording import Say, counted

# Without validation questions, this share of the questions is held out, or of the chunks where there are no questions.
# With fewer than a hundred, luck does the choosing.
VALIDATION_SHARE = 0.15
ENOUGH_QUESTIONS_TO_CHOOSE_BY = 100
MOST_VALIDATION_CHUNKS = 200  # for each of the two kinds of questions that are made of chunks
MOST_VALIDATION_QUESTIONS = 1000  # more would make every validation slower and tell hardly more
# Independent groups of validation questions. Flipping the signs of four gains gives sixteen sums, so that the smallest
# p-value is .0625, and p <= .05 is needed.
FEWEST_GROUPS = 5


def answers_asked_about(questions: RetrievalDataset) -> int:
    """Count the independent groups of questions: no two groups share a good chunk or a wording."""
    return len(groups_by_answer(questions))


def are_few(questions: RetrievalDataset) -> bool:
    """Tell whether to cross-validate on questions rather than hold some out: they are few, but enough for folds."""
    return len(questions) <= FEW_QUESTIONS and answers_asked_about(questions) >= FEWEST_GROUPS


def keep_apart(
    training: RetrievalDataset, validation: RetrievalDataset | None, seed: int, say: Say
) -> tuple[RetrievalDataset, RetrievalDataset]:
    """Return training and validation questions with none in both, holding some out if no validation is given."""
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
    made_of: Manifest,
    seed: int,
    say: Say,
) -> tuple[RetrievalDataset | None, RetrievalDataset | None]:
    """Leave out of validation what the base model was trained on: it has memorised that, and can only get worse at it.

    Args:
        training: Questions to learn from.
        validation: Questions to choose by. If None and the base model was trained on some of the training questions,
            new ones are held out of these.
        made_of: The base model's manifest; empty if it is not tuned.
        seed: Seed of the hold-out.
        say: Takes a line of plain text.

    Raises:
        TrainingError: If too few questions are new to the base model.
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
    """Make questions of some chunks, where none are given: of their own words, and of sentences cut out of them.

    Raises:
        TrainingError: If there are too few chunks, or too little prose in them.
    """
    chunks = without_copies(corpus)  # to a question made of one copy, the other would count as a wrong answer
    count = min(MOST_VALIDATION_CHUNKS, round(VALIDATION_SHARE * len(chunks)))
    made = questions_of_both_kinds(chunks, seed, count=count)
    if not len(made.questions):
        kind = "chunk" if len(chunks) == len(corpus) else "different chunk"
        raise TrainingError(
            f"{counted(len(chunks), kind)}: too few, or too little prose in them, to ask for some by words "
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
    """Make questions of the chunks' own words, where a model has memorised people's; None if they are too few.

    They are to be ranked without keywords, which find every one of these chunks.
    """
    of_chunks = asked_by_their_words(folder, reading, corpus)
    if len(of_chunks) < FEWEST_GROUPS:
        return None
    say(f"instead     {counted(len(of_chunks), 'chunk')} asked for by their own words, by meaning alone")
    return of_chunks


def refuse_too_few_to_choose_by(questions: RetrievalDataset) -> None:
    """Raise TrainingError if the questions are too few to tell any gain from luck."""
    groups = answers_asked_about(questions)
    if groups < FEWEST_GROUPS:
        raise TrainingError(
            f"{counted(len(questions), 'question')} about {counted(groups, 'answer')} to choose by: fewer than "
            f"{FEWEST_GROUPS} cannot tell any gain from luck, and fifty are better; give more questions, or --val"
        )

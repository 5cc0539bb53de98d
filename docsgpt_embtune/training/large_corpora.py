"""The part of a large corpus that there is time to read: a hundred thousand chunks take an hour on two cores."""

import math
import random
import time
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.bm25 import retrieve_bm25
from docsgpt_embtune.evaluation.comparison import BM25_CHUNKS
from docsgpt_embtune.serving.encoding import Encoder
from docsgpt_embtune.training.folds import FOLDS
from docsgpt_embtune.training.held_out import FEWEST_GROUPS, answers_asked_about, keep_apart
from docsgpt_embtune.training.known_vectors import characters_read
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.processes import process_count
from docsgpt_embtune.training.run_folder import noted_once
from docsgpt_embtune.training.validation import HARDEST_PER_QUERY
from docsgpt_embtune.wording import Say, clock, counted, silent

# Of a run's time, for what is read and not trained on: bad chunks are looked for among all chunks, and validation
# ranks its own again and again.
READING_SHARE = 0.5
# Of what is read, what validation ranks.
JUDGED_SHARE = 0.4
# A question's own chunk, and the one whose words are most like it. Beside questions, chunks stand for the corpus, whose
# words the first stage teaches.
CHUNKS_PER_TRAINING_QUESTION = 2
QUESTIONS_SHARE = 2 / 3
# Where not all is read, more validation questions are worth more than more chunks to rank for each.
HARDEST_WHEN_CUT = 5
POOL_PER_QUESTION = 7  # its own, and what by words and by meaning is most like it, without what others have as well
# No fewer than these are kept, however short the time.
FEWEST_CHUNKS = 1000
FEWEST_QUESTIONS = 100
_PROBED_CHUNKS, _PROBED_ON_GPU = 64, 256
NOTHING_CUT = "everything, with fewer chunks ranked for each question"


@dataclass(frozen=True)
class Effort:
    """How often a run reads each chunk without training on it.

    Attributes:
        times_read: Of all chunks: by the base model, and again where a stage went before the mining.
        times_scored: Of those that validation ranks: after each stage, in its midst, and for the mean of its weights.
    """

    times_read: int
    times_scored: int

    def readings(self, chunks: int, judged: int) -> int:
        """Return how many readings of a chunk it takes."""
        return self.times_read * chunks + self.times_scored * judged

    def room(self, readings: float) -> "ReadableChunks":
        """Share out how many readings of a chunk there is time for."""
        chunks = max(FEWEST_CHUNKS, int(readings / (self.times_read + self.times_scored * JUDGED_SHARE)))
        return ReadableChunks(chunks, int(JUDGED_SHARE * chunks))


CHUNKS_AND_QUESTIONS = Effort(times_read=2, times_scored=5)
QUESTIONS_ALONE = Effort(times_read=1, times_scored=2)


@dataclass(frozen=True)
class ReadableChunks:
    """Chunks that there is time for.

    Attributes:
        chunks: Number of chunks in the corpus.
        judged: Of these, for validation and guards.
    """

    chunks: int
    judged: int

    @property
    def training_questions(self) -> int:
        """How many questions the other chunks can be about."""
        return (self.chunks - self.judged) // CHUNKS_PER_TRAINING_QUESTION


def as_time_allows(
    material: Material,
    encode: Encoder,
    minutes: float,
    seed: int,
    *,
    whole_chunks: bool = False,
    folder: Path | None = None,
    say: Say = silent,
) -> Material:
    """Leave a corpus as it is that can be read in time, or else take the part of it that matters most.

    Where questions were to be asked in folds and there is no time for that, some are held out instead.

    These are the chunks about as many validation and training questions as there is room for, drawn at random, with
    what is most like the questions by their words, and a random part of the others. All else is left out of the run,
    and so are the other questions. Where not even people's questions are all learned from, none are made of chunks:
    on two sets of some 2,700 questions these had added .00 and .01 of nDCG@10.

    Args:
        material: Whole.
        encode: Encodes with the base model.
        minutes: Time limit of the run, in minutes.
        seed: Seed of the drawing.
        whole_chunks: Whether chunks may be read to their ends.
        folder: Remembers how much was taken, for a run that goes on after a kill.
        say: Takes a line of plain text on what was taken.
    """
    if process_count() > 1:  # each has a clock of its own, and all must do the same
        return material
    readings = noted_once(
        folder, "readings.json", lambda: _readings(material, encode, minutes, seed, whole_chunks=whole_chunks)
    )
    if material.validation is None and (in_folds := _readings_in_folds(material)) > readings:
        material = _with_some_held_out(material, seed, math.ceil(minutes * in_folds / readings), say)
    part = material
    if _readings_of(material) > readings and not _is_little(material, readings):
        say("reads       as much as there is time for; choosing it")
        part = _part(material, readings, seed)
        say(f"reads       {_described(part, material)}; more with a longer --time-budget")
    once: float = _chunks_read(part)
    if whole_chunks:  # their ends are read where there is time for that, too
        once *= characters_read(part.chunks, encode.model) / sum(map(len, part.chunks))
    if once > readings:
        seconds = READING_SHARE * minutes * 60 * once / readings
        say(
            f"reading     takes {clock(seconds)} or more before anything is learned, of {clock(minutes * 60)} allowed; "
            "no run reads less, and Ctrl-C stops it"
        )
    return part


def _readings_of(material: Material) -> int:
    """Return how many readings of a chunk it takes to ask every question that chooses of the same models."""
    ranked = sum(min(len(asked.corpus), 2 * material.hardest * len(asked)) for asked in _chosen_by(material))
    return CHUNKS_AND_QUESTIONS.readings(_chunks_read(material), ranked)


def _is_little(material: Material, readings: float) -> bool:
    few = all(len(asked) <= FEWEST_QUESTIONS for asked in _chosen_by(material))
    return few and _chunks_read(material) <= CHUNKS_AND_QUESTIONS.room(readings).chunks


def _chosen_by(material: Material) -> list[RetrievalDataset]:
    return [material.to_choose_by, *material.guards.values()]


def _chunks_read(material: Material) -> int:
    """Count the guards' chunks, too: the base model reads them, to choose those that they are ranked over."""
    of_guards = (text for guard in material.guards.values() for text in guard.corpus.values())
    return len({*material.chunks, *of_guards})


def _readings_in_folds(material: Material) -> int:
    """Return how many readings of a chunk it takes to ask every question in folds."""
    corpus, near = len(material.chunks), (1 + 2 * material.hardest) * len(material.to_choose_by)
    of_all = 2 * min(corpus, near)  # in the midst of the chunks' stage, and after it
    of_folds = 2 * min(FOLDS * corpus, near)  # after the questions', and for the mean; each ranks chunks of its own
    return CHUNKS_AND_QUESTIONS.times_read * corpus + of_all + of_folds


def _with_some_held_out(material: Material, seed: int, enough_minutes: int, say: Say) -> Material:
    asked = counted(len(material.to_choose_by), "question")
    said = [f"no time to ask {asked} of models that learned without them; --time-budget {enough_minutes}m would do"]
    training, validation = keep_apart(material.to_choose_by, None, seed, said.append)
    if answers_asked_about(validation) < FEWEST_GROUPS:
        return material
    for line in said:
        say(line)
    return replace(material, training=training, validation=validation, hardest=HARDEST_PER_QUERY)


def parted_alike(whole: Material, part: Material, seed: int) -> Material:
    """Return all that a run was given, but with those questions apart that it held out in its course, if it did."""
    if whole.validation is not None or part.validation is None:
        return whole
    training, validation = keep_apart(whole.to_choose_by, part.validation, seed, silent)
    return replace(whole, training=training, validation=validation)


def _described(part: Material, whole: Material) -> str:
    """Name what is not whole."""
    cut = [_share(part.chunks, whole.chunks, "chunk")]
    for name in ("validation", "training"):
        kept, there = getattr(part, name), getattr(whole, name)
        cut.append(_share(kept or (), there or (), f"{name} question"))
    for name, there in whole.guards.items():
        kept = part.guards[name]
        cut.append(_share(kept, there, "question", f" of the guard {name!r}"))
        cut.append(_share(kept.corpus, there.corpus, "chunk", f" of the guard {name!r}"))
    named = [each for each in cut if each]
    return " and ".join([", ".join(named[:-1]), *named[-1:]] if named[1:] else named) or NOTHING_CUT


def _share(kept: Sized, there: Sized, noun: str, whose: str = "") -> str:
    """Say how much is kept; nothing where it is all."""
    return f"{len(kept):,} of {counted(len(there), noun)}{whose}" if len(kept) < len(there) else ""


def _readings(material: Material, encode: Encoder, minutes: float, seed: int, *, whole_chunks: bool) -> float:
    """Take a few chunks' time, and tell how many readings of one there is time for."""
    chunks, model = material.chunks, encode.model
    count = _PROBED_ON_GPU if model.device.type == "cuda" else _PROBED_CHUNKS
    drawn = random.Random(seed).choices(chunks, k=count)
    encode(drawn[: count // 4])  # the first pass sets things up
    started = time.monotonic()
    encode(drawn)
    of_character = (time.monotonic() - started) / characters_read(drawn, model)
    characters = float(sum(map(len, chunks))) if whole_chunks else characters_read(chunks, model)
    return READING_SHARE * minutes * 60 / (of_character * characters / len(chunks))


def _part(material: Material, readings: float, seed: int) -> Material:
    drawn = random.Random(seed)
    chunks, room = material.chunks, QUESTIONS_ALONE.room(readings)
    asks_chunks = material.training is None or len(material.training) <= room.training_questions
    if asks_chunks:
        room = CHUNKS_AND_QUESTIONS.room(readings)
    questions = max(FEWEST_QUESTIONS, room.judged // ((1 + len(material.guards)) * POOL_PER_QUESTION))
    guards = {name: guard.sampled(questions, drawn) for name, guard in material.guards.items()}
    guards = {name: _over(guard, _worth_ranking(guard, drawn)) for name, guard in guards.items()}
    # Questions that are learned from and chosen by are few, and kept all.
    training, validation = material.training, material.validation
    if validation is not None:
        validation = validation.sampled(questions, drawn)
    if len(chunks) > room.chunks:
        kept = _worth_ranking(material.to_choose_by if validation is None else validation, drawn)
        if training is not None and validation is not None:
            share = QUESTIONS_SHARE if asks_chunks else 1.0
            training = training.sampled(int(share * room.training_questions), drawn)
            kept |= {*_judged(training), *_alike(training, CHUNKS_PER_TRAINING_QUESTION - 1, drawn)}
        kept |= _some_others(chunks, kept, room.chunks, drawn)
        training, validation = (each and _over(each, kept) for each in (training, validation))
    return replace(
        material,
        training=training,
        validation=validation,
        guards=guards,
        hardest=HARDEST_WHEN_CUT,
        asks_chunks=asks_chunks,
    )


def part_worth_ranking(dataset: RetrievalDataset, most: int, seed: int) -> RetrievalDataset:
    """Keep of a large corpus what its questions are judged by, what is most like them by words, and some of the others.

    Args:
        dataset: Questions over a corpus of any size.
        most: Distinct chunks to keep, unless more are judged or alike.
        seed: Seed of the drawing.
    """
    if len(dataset.corpus) <= most:
        return dataset
    drawn = random.Random(seed)
    kept = _worth_ranking(dataset, drawn)
    chunks = list(dict.fromkeys(dataset.corpus.values()))
    return _over(dataset, kept | _some_others(chunks, kept, most, drawn))


def _some_others(chunks: Sequence[str], kept: set[str], most: int, drawn: random.Random) -> set[str]:
    """Draw as many other chunks as there is room for beside those that are kept."""
    others = [text for text in chunks if text not in kept]
    return set(drawn.sample(others, k=min(len(others), max(0, most - len(kept)))))


def _worth_ranking(dataset: RetrievalDataset, drawn: random.Random) -> set[str]:
    """Return what a question is judged by, and what is most like it by its words."""
    return {*_judged(dataset), *_alike(dataset, HARDEST_WHEN_CUT, drawn)}


def _judged(dataset: RetrievalDataset) -> Iterable[str]:
    for judgments in (dataset.relevant_docs, dataset.irrelevant_docs):
        for doc_ids in judgments.values():
            yield from (dataset.corpus[doc_id] for doc_id in doc_ids)


def _alike(dataset: RetrievalDataset, count: int, drawn: random.Random) -> Iterable[str]:
    """Yield, for each question, the chunks whose words are most like it, beside the judged ones."""
    searched = dataset
    if len(dataset.corpus) > BM25_CHUNKS:
        some = {*_judged(dataset), *drawn.sample(list(dataset.corpus.values()), k=BM25_CHUNKS)}
        searched = _over(dataset, some)
    most_judged = max(len(judged) for judged in searched.relevant_docs.values())
    ranking = retrieve_bm25(searched, k=count + most_judged)
    for query_id, good in searched.relevant_docs.items():
        others = [doc_id for doc_id in ranking.top(query_id, ranking.depth) if doc_id not in good]
        yield from (searched.corpus[doc_id] for doc_id in others[:count])


def _over(dataset: RetrievalDataset, texts: set[str]) -> RetrievalDataset:
    """Keep of the corpus what has one of these texts, which hold all that is judged."""
    return replace(dataset, corpus={doc_id: text for doc_id, text in dataset.corpus.items() if text in texts})

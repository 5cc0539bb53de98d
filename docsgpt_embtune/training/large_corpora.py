"""Choose the part of a large corpus that there is time to read: a hundred thousand chunks take an hour on two cores."""

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

# Share of a run's time for encoding chunks without training on them: all of them for mining, and those that validation
# ranks again and again.
READING_SHARE = 0.5
# Share of the chunks read that validation ranks.
JUDGED_SHARE = 0.4
# A question's good chunk, and the chunk most like it by words.
CHUNKS_PER_TRAINING_QUESTION = 2
# Share of the room for training that questions take; other chunks stand for the corpus, whose words the first stage
# teaches.
QUESTIONS_SHARE = 2 / 3
# Where not all is read, more validation questions are worth more than more chunks to rank for each.
HARDEST_WHEN_CUT = 5
POOL_PER_QUESTION = 7  # the good chunk and those most like the question by words and by vectors, shared ones left out
# No fewer than these are kept, however short the time.
FEWEST_CHUNKS = 1000
FEWEST_QUESTIONS = 100
_PROBED_CHUNKS, _PROBED_ON_GPU = 64, 256
NOTHING_CUT = "everything, with fewer chunks ranked for each question"


@dataclass(frozen=True)
class Effort:
    """How often a run reads each chunk without training on it.

    Attributes:
        times_read: For all chunks: by the base model, and again where a stage precedes the mining.
        times_scored: For those that validation ranks: after each stage, in its middle, and for the mean of its weights.
    """

    times_read: int
    times_scored: int

    def readings(self, chunks: int, judged: int) -> int:
        """Return how many chunks the run encodes, counting each as often as it is read."""
        return self.times_read * chunks + self.times_scored * judged

    def room(self, readings: float) -> "ReadableChunks":
        """Return how many chunks there is room for, given how many readings of a chunk there is time for."""
        chunks = max(FEWEST_CHUNKS, int(readings / (self.times_read + self.times_scored * JUDGED_SHARE)))
        return ReadableChunks(chunks, int(JUDGED_SHARE * chunks))


CHUNKS_AND_QUESTIONS = Effort(times_read=2, times_scored=5)
QUESTIONS_ALONE = Effort(times_read=1, times_scored=2)


@dataclass(frozen=True)
class ReadableChunks:
    """How many chunks there is time for.

    Attributes:
        chunks: Number of chunks in the corpus.
        judged: Number of these for validation and guards.
    """

    chunks: int
    judged: int

    @property
    def training_questions(self) -> int:
        """How many training questions there are chunks for beside the judged ones."""
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
    """Return the material whole if its corpus can be read in time, or else the part of it that matters most.

    Where there is no time for cross-validation in folds, some questions are held out instead.

    The part has randomly drawn validation and training questions, as many as there is room for, with their judged
    chunks, the chunks most like the questions by words, and a random sample of the other chunks. All else is left out
    of the run. Where not even all of people's questions fit, no questions are made of chunks: on two sets of some 2,700
    questions these had added .00 and .01 of nDCG@10.

    Args:
        material: The whole material.
        encode: Encodes with the base model.
        minutes: Time limit of the run, in minutes.
        seed: Seed of the sampling.
        whole_chunks: Whether chunks may be read to their ends, in windows.
        folder: Where the measured pace is noted for a resumed run; None notes nothing.
        say: Takes a line of plain text on what was taken.
    """
    if process_count() > 1:  # each process has its own clock, and all must do the same
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
    if whole_chunks:  # readings are of whole chunks, but only their beginnings must be read
        once *= characters_read(part.chunks, encode.model) / sum(map(len, part.chunks))
    if once > readings:
        seconds = READING_SHARE * minutes * 60 * once / readings
        say(
            f"reading     takes {clock(seconds)} or more before anything is learned, of {clock(minutes * 60)} allowed; "
            "no run reads less, and Ctrl-C stops it"
        )
    return part


def _readings_of(material: Material) -> int:
    """Return how many readings of a chunk a run without folds takes."""
    ranked = sum(min(len(asked.corpus), 2 * material.hardest * len(asked)) for asked in _chosen_by(material))
    return CHUNKS_AND_QUESTIONS.readings(_chunks_read(material), ranked)


def _is_little(material: Material, readings: float) -> bool:
    few = all(len(asked) <= FEWEST_QUESTIONS for asked in _chosen_by(material))
    return few and _chunks_read(material) <= CHUNKS_AND_QUESTIONS.room(readings).chunks


def _chosen_by(material: Material) -> list[RetrievalDataset]:
    return [material.to_choose_by, *material.guards.values()]


def _chunks_read(material: Material) -> int:
    """Count the chunks to read; the guards' count, too, as the base model reads them to choose their pools."""
    of_guards = (text for guard in material.guards.values() for text in guard.corpus.values())
    return len({*material.chunks, *of_guards})


def _readings_in_folds(material: Material) -> int:
    """Return how many readings of a chunk a run in folds takes."""
    corpus, near = len(material.chunks), (1 + 2 * material.hardest) * len(material.to_choose_by)
    of_all = 2 * min(corpus, near)  # in the middle of the chunks' stage, and after it
    of_folds = 2 * min(FOLDS * corpus, near)  # after the questions' stage, and for the mean; each has its own pool
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


def with_same_held_out_questions(whole: Material, part: Material, seed: int) -> Material:
    """Return the whole material; if the run held questions out of its part, the same ones are held out here."""
    if whole.validation is not None or part.validation is None:
        return whole
    training, validation = keep_apart(whole.to_choose_by, part.validation, seed, silent)
    return replace(whole, training=training, validation=validation)


def _described(part: Material, whole: Material) -> str:
    """Say what of the material was cut down, and to how much."""
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
    """Say how much is kept; an empty string if all is."""
    return f"{len(kept):,} of {counted(len(there), noun)}{whose}" if len(kept) < len(there) else ""


def _readings(material: Material, encode: Encoder, minutes: float, seed: int, *, whole_chunks: bool) -> float:
    """Time the encoding of a few chunks, and return how many readings of a chunk there is time for."""
    chunks, model = material.chunks, encode.model
    count = _PROBED_ON_GPU if model.device.type == "cuda" else _PROBED_CHUNKS
    drawn = random.Random(seed).choices(chunks, k=count)
    encode(drawn[: count // 4])  # warm-up
    started = time.monotonic()
    encode(drawn)
    of_character = (time.monotonic() - started) / characters_read(drawn, model)
    characters = float(sum(map(len, chunks))) if whole_chunks else characters_read(chunks, model)
    return READING_SHARE * minutes * 60 / (of_character * characters / len(chunks))


def _part(material: Material, readings: float, seed: int) -> Material:
    """Draw the part of the material that there is time for: questions first, then chunks for them, then others."""
    drawn = random.Random(seed)
    room = QUESTIONS_ALONE.room(readings)
    asks_chunks = material.training is None or len(material.training) <= room.training_questions
    if asks_chunks:
        room = CHUNKS_AND_QUESTIONS.room(readings)
    questions = max(FEWEST_QUESTIONS, room.judged // ((1 + len(material.guards)) * POOL_PER_QUESTION))
    guards = {name: guard.sampled(questions, drawn) for name, guard in material.guards.items()}
    guards = {name: _over(guard, _worth_ranking(guard, drawn)) for name, guard in guards.items()}
    part = replace(material, guards=guards, hardest=HARDEST_WHEN_CUT, asks_chunks=asks_chunks)
    if part.validation is not None:  # questions that are asked in folds are few, and all are kept
        part = replace(part, validation=part.validation.sampled(questions, drawn))
    return part if len(material.chunks) <= room.chunks else _with_fewer_chunks(part, room, drawn)


def _with_fewer_chunks(material: Material, room: ReadableChunks, drawn: random.Random) -> Material:
    """Keep as many chunks as there is room for, and the training questions that these leave room for."""
    training, validation = material.training, material.validation
    kept = _worth_ranking(material.to_choose_by, drawn)
    if training is not None and validation is not None:
        share = QUESTIONS_SHARE if material.asks_chunks else 1.0
        training = training.sampled(int(share * room.training_questions), drawn)
        kept |= {*_judged(training), *_alike(training, CHUNKS_PER_TRAINING_QUESTION - 1, drawn)}
    kept |= _some_others(material.chunks, kept, room.chunks, drawn)
    training, validation = (each and _over(each, kept) for each in (training, validation))
    return replace(material, training=training, validation=validation)


def part_worth_ranking(dataset: RetrievalDataset, most: int, seed: int) -> RetrievalDataset:
    """Reduce a large corpus to the judged chunks, those most like the questions by words, and a sample of the others.

    Args:
        dataset: Questions over a corpus of any size.
        most: Distinct chunks to keep, unless more are judged or alike.
        seed: Seed of the sampling.
    """
    if len(dataset.corpus) <= most:
        return dataset
    drawn = random.Random(seed)
    kept = _worth_ranking(dataset, drawn)
    chunks = list(dict.fromkeys(dataset.corpus.values()))
    return _over(dataset, kept | _some_others(chunks, kept, most, drawn))


def _some_others(chunks: Sequence[str], kept: set[str], most: int, drawn: random.Random) -> set[str]:
    """Draw as many other chunks as there is room for beside the kept ones."""
    others = [text for text in chunks if text not in kept]
    return set(drawn.sample(others, k=min(len(others), max(0, most - len(kept)))))


def _worth_ranking(dataset: RetrievalDataset, drawn: random.Random) -> set[str]:
    """Return the texts of the judged chunks, and of those most like each question by words."""
    return {*_judged(dataset), *_alike(dataset, HARDEST_WHEN_CUT, drawn)}


def _judged(dataset: RetrievalDataset) -> Iterable[str]:
    for judgments in (dataset.relevant_docs, dataset.irrelevant_docs):
        for doc_ids in judgments.values():
            yield from (dataset.corpus[doc_id] for doc_id in doc_ids)


def _alike(dataset: RetrievalDataset, count: int, drawn: random.Random) -> Iterable[str]:
    """Yield, for each question, the texts of the chunks most like it by BM25, its good ones left out."""
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
    """Restrict the corpus to chunks with these texts, which must include all judged ones."""
    return replace(dataset, corpus={doc_id: text for doc_id, text in dataset.corpus.items() if text in texts})

"""Training rows for the three losses, and batches in which no good chunk is a negative of its own question."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, cycle, islice
from typing import Any

from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.config import LossName
from docsgpt_embtune.training.processes import process_count


@dataclass(frozen=True)
class Question:
    """A question text with everything known about it.

    Attributes:
        text: The anchor.
        good: Texts that answer it (positives), at least one.
        bad: Texts that do not (negatives).
    """

    text: str
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True)
class TrainingExamples:
    """Rows in the columns that a sentence-transformers loss reads, and which rows belong together.

    Attributes:
        rows: Columns (anchor, positive[, negative…]) or (anchor, text, label).
        groups: Numbers of the rows that must share a batch; each row is in one group.
        good_texts: For each group, all good texts of its question; empty where the loss ignores other rows.
        turns: Numbers of the groups that take turns: an epoch uses one group out of each tuple.
    """

    rows: Dataset
    groups: tuple[tuple[int, ...], ...]
    good_texts: tuple[frozenset[str], ...]
    turns: tuple[tuple[int, ...], ...]


def questions_of(dataset: RetrievalDataset, mined: Mapping[str, Sequence[str]]) -> list[Question]:
    """Merge judgments and mined negatives by question text, so that copies of a question do not contradict each other.

    A text with two query ids has the good chunks of both, and none of these among its bad ones.
    """
    good: dict[str, dict[str, None]] = {}  # ordered sets: the same file must give the same batches
    bad: dict[str, dict[str, None]] = {}
    for query_id, text in dataset.queries.items():
        bad_ids = (*dataset.irrelevant_docs.get(query_id, ()), *mined.get(query_id, ()))
        good.setdefault(text, {}).update(dict.fromkeys(dataset.corpus[d] for d in dataset.relevant_docs[query_id]))
        bad.setdefault(text, {}).update(dict.fromkeys(dataset.corpus[d] for d in bad_ids))
    return [Question(text, tuple(good[text]), tuple(b for b in bad[text] if b not in good[text])) for text in good]


def build_examples(questions: Sequence[Question], loss: LossName) -> TrainingExamples:
    """Lay the questions out as the loss reads them, with every good chunk of each.

    With "online-contrastive" the good chunks of a question take turns, one per epoch. All of them in each epoch made
    the model worse: on questions held out of a manual (1.8 good chunks each), nDCG@10 was .583 instead of .676.

    Args:
        questions: What to train on.
        loss: "online-contrastive" and "cosine-similarity" take (question, chunk, label) pairs, a good chunk and its
            share of the bad ones in one group; "multiple-negatives-ranking" takes (question, good[, bad…]), with
            as many bad ones as the median question has.

    Returns:
        Rows and their grouping.
    """
    if loss == "multiple-negatives-ranking":
        return _ranked(questions)
    return _labelled(questions, loss)


def _labelled(questions: Sequence[Question], loss: LossName) -> TrainingExamples:
    take_turns = loss == "online-contrastive"
    label_type = int if take_turns else float
    rows: dict[str, list[Any]] = {"anchor": [], "text": [], "label": []}
    groups: list[tuple[int, ...]] = []
    turns: list[tuple[int, ...]] = []
    for question in questions:
        first = len(groups)
        for good, bad in _dealt(question, again=take_turns):
            start = len(rows["anchor"])
            rows["anchor"] += [question.text] * (1 + len(bad))
            rows["text"] += [good, *bad]
            rows["label"] += [label_type(1), *[label_type(0)] * len(bad)]
            groups.append(tuple(range(start, len(rows["anchor"]))))
        numbers = tuple(range(first, len(groups)))
        turns += [numbers] if take_turns else [(number,) for number in numbers]
    return TrainingExamples(Dataset.from_dict(rows), tuple(groups), good_texts=(), turns=tuple(turns))


def _dealt(question: Question, *, again: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Distribute the bad chunks over the good ones, so that no group has only one label while bad ones last.

    Args:
        question: With good and bad chunks.
        again: Whether to reuse bad ones where there are fewer of them than good ones.
    """
    bad = question.bad
    dealt = [(good, bad[n :: len(question.good)]) for n, good in enumerate(question.good)]
    if again and bad:
        dealt = [(good, share or (bad[n % len(bad)],)) for n, (good, share) in enumerate(dealt)]
    return dealt


def _ranked(questions: Sequence[Question]) -> TrainingExamples:
    questions = with_as_many_bad_ones(questions)
    columns = ["anchor", "positive", *(f"negative_{n + 1}" for n in range(len(questions[0].bad)))]
    rows: list[tuple[str, ...]] = []
    good_texts = []
    for question in questions:
        good_for_it = frozenset(question.good)  # shared by all of its rows: with 500 good chunks, a set takes 30 kB
        for position, positive in enumerate(question.good):
            turned = question.bad[position:] + question.bad[:position]  # each positive has another negative first
            rows.append((question.text, positive, *turned))
            good_texts.append(good_for_it)
    table = {column: [row[number] for row in rows] for number, column in enumerate(columns)}
    each_alone = tuple((n,) for n in range(len(rows)))
    return TrainingExamples(Dataset.from_dict(table), each_alone, tuple(good_texts), turns=each_alone)


def with_as_many_bad_ones(questions: Sequence[Question]) -> list[Question]:
    """Give every question as many bad chunks as the median question has, borrowing others' where its own are too few.

    All rows of the ranking loss have the same columns, and one question with no bad chunk must not cost the others
    theirs.
    """
    wanted = sorted(len(question.bad) for question in questions)[len(questions) // 2]
    everyones = [text for question in questions for text in question.bad[:wanted]]
    evened = []
    for number, question in enumerate(questions):
        bad: Iterable[str] = question.bad
        if len(question.bad) < wanted:
            others = (everyones[(number * wanted + n) % len(everyones)] for n in range(len(everyones)))
            bad = chain(question.bad, (text for text in others if text not in question.good))
        evened.append(replace(question, bad=_first_distinct(bad, wanted)))
    fewest = min(len(question.bad) for question in evened)
    return [replace(question, bad=question.bad[:fewest]) for question in evened]


def _first_distinct(texts: Iterable[str], count: int) -> tuple[str, ...]:
    distinct: dict[str, None] = {}
    for text in texts:
        if len(distinct) == count:
            break
        distinct[text] = None
    return tuple(distinct)


class GroupedBatchSampler(DefaultBatchSampler):
    """Shuffled batches of whole groups: the good and the bad chunk of a question are always in one batch.

    With `in_batch_negatives`, every text of a batch is a negative for the batch's other questions. A group then waits
    for a later batch if one of its texts is good for a question of the batch, or a text of the batch for its question.
    Where many questions share an answer, this leaves a tail of batches with few rows, whose negatives teach little
    and whose steps are as large as any. Batches that are less than half full are therefore left out of the epoch,
    unless they are the ordinary remainder and hold more than a tenth of all rows.

    Every epoch has as many batches as the first: the trainer assumes so, and would leave out any more.

    Args:
        examples: Rows and groups.
        batch_size: Rows in a batch; a group is split only if it is larger than that by itself.
        in_batch_negatives: Whether the loss takes other rows' texts as negatives.
        seed: Seed of the shuffling, combined with the epoch.
    """

    def __init__(self, examples: TrainingExamples, batch_size: int, *, in_batch_negatives: bool, seed: int) -> None:
        # Processes wait for each other at every step, so all need the same number of batches.
        super().__init__(range(len(examples.rows)), batch_size=batch_size, drop_last=process_count() > 1)
        self.examples = examples
        self.in_batch_negatives = in_batch_negatives
        self.seed = seed
        self._texts = [self._texts_of(group) for group in examples.groups] if in_batch_negatives else []
        self._batches_of_epoch: dict[int, list[list[int]]] = {}

    def __len__(self) -> int:
        """Count the batches of this epoch."""
        return len(self._batches())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield row numbers, batch by batch."""
        yield from self._batches()

    def _batches(self) -> list[list[int]]:
        if self.epoch not in self._batches_of_epoch:
            self._batches_of_epoch = {self.epoch: list(islice(cycle(self._packed(self.epoch)), self._count))}
        return self._batches_of_epoch[self.epoch]

    @cached_property
    def _count(self) -> int:
        return max(len(self._packed(epoch=0)), process_count())  # each process needs at least one

    def _packed(self, epoch: int) -> list[list[int]]:
        turns = enumerate(self.examples.turns, epoch)  # not all start at their first good chunk
        order = [numbers[turn % len(numbers)] for turn, numbers in turns]
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return self._pack(order)

    def _pack(self, order: list[int]) -> list[list[int]]:
        batches = []
        waiting = order
        while waiting:
            batch, waiting = self._fill_one(waiting)
            batches += [batch[start : start + self.batch_size] for start in range(0, len(batch), self.batch_size)]
        return self._without_tail(batches) if self.in_batch_negatives else batches

    def _without_tail(self, batches: list[list[int]]) -> list[list[int]]:
        filled = [batch for batch in batches if 2 * len(batch) >= self.batch_size]
        rows, rows_of_filled = sum(map(len, batches)), sum(map(len, filled))
        is_ordinary = len(batches) == math.ceil(rows / self.batch_size)
        return batches if is_ordinary and 10 * rows_of_filled < 9 * rows else filled or batches

    def _fill_one(self, waiting: list[int]) -> tuple[list[int], list[int]]:
        batch: list[int] = []
        texts: set[str] = set()
        good: set[str] = set()
        answers: set[frozenset[str]] = set()
        left_over: list[int] = []
        for position, group in enumerate(waiting):
            rows = self.examples.groups[group]
            if batch and len(batch) + len(rows) > self.batch_size:
                return batch, left_over + waiting[position:]
            if self.in_batch_negatives and batch and self._clash(group, texts, good, answers):
                left_over.append(group)
                continue
            batch += rows
            if self.in_batch_negatives:
                texts |= self._texts[group]
                good |= self.examples.good_texts[group]
                answers.add(self.examples.good_texts[group])
        return batch, left_over

    def _clash(self, group: int, texts: set[str], good: set[str], answers: set[frozenset[str]]) -> bool:
        good_for_it = self.examples.good_texts[group]
        # Another row of the same question always clashes, so its texts need not be compared. To compare them for every
        # batch took two minutes with 60 questions of 500 good chunks each.
        return good_for_it in answers or not (good_for_it.isdisjoint(texts) and self._texts[group].isdisjoint(good))

    def _texts_of(self, group: tuple[int, ...]) -> set[str]:
        rows = self.examples.rows
        return {text for row in group for column, text in rows[row].items() if column not in ("anchor", "label")}


def sampler_factory(examples: TrainingExamples, seed: int) -> Any:
    """Return what the trainer's `batch_sampler` argument takes: a function that makes the sampler."""
    # Only losses without labels take other rows' texts as negatives.
    in_batch_negatives = "label" not in examples.rows.column_names

    def make(dataset: Dataset, batch_size: int, **_: Any) -> GroupedBatchSampler:
        return GroupedBatchSampler(examples, batch_size, in_batch_negatives=in_batch_negatives, seed=seed)

    return make

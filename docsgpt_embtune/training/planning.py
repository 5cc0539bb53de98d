"""Plan what fits into the time of a run, by the pace that two real steps showed."""

import math
import random
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.training.known_vectors import characters_read
from docsgpt_embtune.training.negatives import most_mined
from docsgpt_embtune.training.pace import Memory, Pace, probe
from docsgpt_embtune.training.processes import process_count
from docsgpt_embtune.training.run_folder import noted_once
from docsgpt_embtune.training.stage import Stage
from docsgpt_embtune.training.tuning_run import TuningRun
from docsgpt_embtune.wording import clock, counted

# Share of the time limit that a plan may fill: a machine with other work to do is slower than its probe.
PLANNED_SHARE = 0.8
# The same once stages have shown how slow the machine is; keywords and writing come after them.
REPLANNED_SHARE = 0.9
# Share of the time limit by which it must be known whether long chunks are read in windows: reading is to take half of
# the time, on a machine as fast as its probe.
TRIED_SHARE = 0.7


@dataclass(frozen=True)
class Cost:
    """Expected seconds of a stage.

    Attributes:
        of_questions: Seconds of training, which grow with the number of questions.
        fixed: Seconds of mining and of validation, however few the questions are.
    """

    of_questions: float
    fixed: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.of_questions + self.fixed


@dataclass(frozen=True)
class Plan:
    """The stages that fit into the time, and what each is expected to take.

    Attributes:
        stages: The stages, in order.
        questions: How many questions each stage would use with time enough.
        seconds: Expected seconds of each stage, mining and validation included.
        finished: How many of the stages were finished before the run was resumed.
        before: Seconds that the run had taken before it was stopped.
        spent: Seconds that it has taken so far, without those.
        memory: Peak memory of the run.
        pace: The measured pace that the times are computed from.
    """

    stages: tuple[Stage, ...]
    questions: tuple[int, ...]
    seconds: tuple[float, ...]
    finished: int
    before: float
    spent: float
    memory: Memory
    pace: Pace

    def describe(self, minutes: float) -> list[str]:
        """Describe each stage in a line, then the time and memory of all in another."""
        every = zip(self.stages, self.questions, self.seconds, strict=True)
        lines = [
            f"{number}. {stage.name}: done"
            if number <= self.finished
            else f"{number}. {stage.name}: {_part_of(len(stage.questions), questions)}, {stage.lesson}, "
            f"{counted(stage.config.negatives, 'mined bad chunk')} each, about {clock(seconds)}"
            for number, (stage, questions, seconds) in enumerate(every, 1)
        ]
        in_all = self.spent + sum(self.seconds[self.finished :])
        said = f"about {clock(in_all)} in all with the {clock(self.spent)} so far"
        if self.before:
            said += f" ({clock(self.before)} before it was stopped)"
        lines.append(f"{said}, of {clock(minutes * 60)} allowed; {self.memory}")
        if in_all > minutes * 60:
            why = "several processes cut nothing" if process_count() > 1 else "the least that a run takes here"
            lines.append(f"that is longer than allowed, and {why}; Ctrl-C stops it")
        if sum(len(stage.questions) for stage in self.stages) < sum(self.questions):
            lines.append("there is no time for all questions; give a longer --time-budget")
        return lines


def may_try_windows(run: TuningRun, chunks: Iterable[str], minutes: float) -> bool:
    """Tell whether there is time to see if reading long chunks in windows helps, and say so if there is not.

    Args:
        run: Not yet trained, with the chunks' beginnings encoded.
        chunks: All chunks.
        minutes: Time limit of the whole run, in minutes.
    """
    if process_count() > 1:  # each process has its own clock, and all must do the same
        return True
    longer = sum(len(text) for text in chunks if characters_read([text], run.model) < len(text))
    seconds = longer * run.vectors.seconds / run.vectors.characters
    # A resumed run keeps to what was decided at first.
    enough: float = noted_once(
        run.folder, "windows.json", lambda: (time.monotonic() - run.started + seconds) / TRIED_SHARE / 60
    )
    if enough > minutes:
        run.say(
            f"windows     left out: no time to see whether they help, about {clock(seconds)}; it takes --time-budget "
            f"{math.ceil(enough)}m at least, or --windows mean, which does not ask"
        )
    return enough <= minutes


def make_plan(run: TuningRun, stages: Sequence[Stage], minutes: float) -> Plan:
    """Fit stages into the time: if not all fit, drop the optional ones, then cut the others to the same share.

    Args:
        run: Not yet trained.
        stages: The stages to run with time enough.
        minutes: Time limit of the whole run, in minutes, including what it has taken so far.
    """
    pace, memory = probe(run, stages[0])
    fitting = _that_fit(stages, run, pace, PLANNED_SHARE * minutes, "plan.json")
    seconds = tuple(each.seconds for each in _costs(fitting, run, pace))
    names = [stage.name for stage in fitting]
    questions = tuple(len(stage.questions) for stage in stages if stage.name in names)
    finished, spent = run.selection.finished_stages, time.monotonic() - run.started
    return Plan(tuple(fitting), questions, seconds, finished, run.seconds_before, spent, memory, pace)


def stages_in_time(plan: Plan, run: TuningRun, minutes: float) -> Iterator[Stage]:
    """Yield the stages of a plan, cut down where earlier ones took so long that not all fits any more.

    A machine that is given other work meanwhile is slower than its probe.

    Args:
        plan: The run's plan; none of its stages has begun.
        run: The run, which says what is cut.
        minutes: Time limit of the whole run, in minutes.
    """
    left, slower = list(plan.stages), 1.0
    for number in count():
        if number and left:
            note = f"plan-before-stage-{number}.json"
            fitting = _that_fit(left, run, plan.pace.slower(slower), REPLANNED_SHARE * minutes, note)
            if cut := _cut(left, fitting):
                run.say(f"plan        {slower:.1f} times as slow as planned so far: {cut}")
            left = fitting
        if not left:
            return
        expected = _costs(left, run, plan.pace)[0].seconds
        began = time.monotonic()
        yield left.pop(0)
        # No less than 1: a stage that is skipped in a resumed run, or given up, takes little time at any pace.
        slower = max(1.0, (time.monotonic() - began) / expected)


def _that_fit(stages: Sequence[Stage], run: TuningRun, pace: Pace, minutes: float, note: str) -> list[Stage]:
    """Drop the optional stages if not all fit into the time of a run, then cut the others to the same share."""
    left = minutes * 60 - (time.monotonic() - run.started)
    if process_count() > 1:  # each process has its own clock, and all must do the same
        left = math.inf
    costs = list(zip(stages, _costs(stages, run, pace), strict=True))
    if sum(cost.seconds for _, cost in costs) > left:
        costs = [(stage, cost) for stage, cost in costs if not stage.if_time_allows]
    of_questions, fixed = sum(cost.of_questions for _, cost in costs), sum(cost.fixed for _, cost in costs)
    found: dict[str, Any] = {
        "stages": [stage.name for stage, _ in costs],
        "share": min(1.0, max(left - fixed, 0.0) / of_questions) if costs else 1.0,
    }
    # A resumed run keeps to what was decided at first.
    kept = found if process_count() > 1 else noted_once(run.folder, note, lambda: found)
    fitting = [stage for stage in stages if stage.name in kept["stages"]]
    return fitting if kept["share"] == 1 else [_with_share(stage, kept["share"]) for stage in fitting]


def _cut(planned: Sequence[Stage], left: Sequence[Stage]) -> str:
    """Say what was cut of the planned stages; an empty string if nothing was."""
    now = {stage.name: len(stage.questions) for stage in left}
    return ", ".join(
        f"{stage.name} from {_part_of(now[stage.name], len(stage.questions))}"
        if stage.name in now
        else f"{stage.name} left out"
        for stage in planned
        if now.get(stage.name) != len(stage.questions)
    )


def _part_of(count: int, questions: int) -> str:
    return counted(questions, "question") if count == questions else f"{count:,} of {counted(questions, 'question')}"


def _with_share(stage: Stage, share: float) -> Stage:
    """Keep a random share of a stage's questions, at least enough to fill a batch with rows."""
    questions = stage.questions
    fewest = math.ceil(stage.config.batch_size * len(questions) / _rows_of(questions))
    count = max(fewest, int(share * len(questions)))
    return replace(stage, questions=questions.sampled(count, random.Random(stage.config.seed)))


def _rows_of(questions: RetrievalDataset) -> int:
    return sum(map(len, questions.relevant_docs.values()))


def _bad_chunks_in_a_row(stage: Stage) -> int:
    """Return the number of bad chunks in a row of the ranking loss: as many as the median question has."""
    given, config = stage.questions.irrelevant_docs, stage.config
    mined = config.negatives if stage.mines else 0
    counts = sorted(
        max(len(given.get(query_id, ())), min(mined * len(good), most_mined(config)))
        for query_id, good in stage.questions.relevant_docs.items()
    )
    return counts[len(counts) // 2]


def _costs(stages: Sequence[Stage], run: TuningRun, pace: Pace) -> list[Cost]:
    """Return the expected cost of each stage."""
    # Chunks that mining still has to encode: for the base's weights, those of the corpus that are not cached; for an
    # earlier stage's weights, those that they were not scored on; for weights that an earlier stage started from, too,
    # none.
    corpus = stages[0].questions.corpus.values()  # the same in all stages
    base_lacks = run.vectors.unknown(corpus)
    scored = run.ranked
    later_lacks = [text for text in corpus if text not in scored]
    lacks = [base_lacks, *(later_lacks if stage.passes_on else [] for stage in stages)]
    return [_cost(stage, run, pace, mined_from) for stage, mined_from in zip(stages, lacks, strict=False)]


def _cost(stage: Stage, run: TuningRun, pace: Pace, mined_from: Iterable[str]) -> Cost:
    questions = stage.questions
    asked = characters_read(questions.queries.values(), run.model) / len(questions)
    chunk = characters_read(questions.corpus.values(), run.model) / len(questions.corpus)
    trained = stage.config.epochs * _rows_of(questions) * (asked + (1 + _bad_chunks_in_a_row(stage)) * chunk)
    times_scored = stage.config.epochs + stage.averages + stage.may_be_given_up
    if stage.asks_folds:
        trained *= len(run.folds)  # each question is trained on in all folds but its own, and in the final fit
        encoded = times_scored * sum(_characters_scored(pool.chunks, run) for pool in run.pools)
    else:
        encoded = times_scored * _characters_scored(run.ranked, run)
    encoded += characters_read(mined_from, run.model)
    return Cost(pace.training * trained, pace.encoding * encoded)


def _characters_scored(chunks: Collection[str], run: TuningRun) -> float:
    return sum(map(len, chunks)) if run.windows is not None else characters_read(chunks, run.model)

"""Measure how often the verdict is right, over simulated pairs of models whose true difference is known.

    python scripts/bench_calibration.py --comparisons 500

A question's vector is its chunk's vector plus noise, the blur; a model is one way of blurring. Two models share a part
of the blur (both misread the same hard questions) and differ in the rest. With equal blur they differ by chance alone.
A slightly lower blur is a true gain, set to 5 points of recall@1 over very many questions.

Wordings of one question ask for the same chunk and share most of their blur, in each model. Counted as separate
questions, they turn noise into "improved". The last lines show how often, and how grouping them changes that.
"""

from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
from tqdm import trange

from docsgpt_embtune.evaluation.verdict import judge

DIMENSION = 64
CHUNKS = 1000
BLUR = 2.2  # recall@1 of about one half
GAIN = 0.05
ALIKE = 0.8  # share of the blur's variance that the wordings of a question have in common

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Chunk vectors, and the share of the blur that two models have in common.

    Attributes:
        chunks: (CHUNKS, DIMENSION), unit-norm.
        shared: Share of the blur's variance that the two models have in common.
    """

    chunks: Float64Array
    shared: float

    def compare(
        self, blurs: tuple[float, float], questions: int, random: np.random.Generator, wordings: int = 1
    ) -> list[Float64Array]:
        """Rank new questions with two models: two arrays (questions,) of the good chunk's rank.

        Each run of `wordings` consecutive questions is the wordings of one question.
        """
        good = np.repeat(random.integers(CHUNKS, size=questions // wordings), wordings)
        common = _blur(questions, wordings, random)
        ranks = []
        for blur in blurs:
            own = _blur(questions, wordings, random)
            noise = np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own
            vectors = self.chunks[good] + blur / np.sqrt(DIMENSION) * noise
            similarity = vectors @ self.chunks.T  # (questions, CHUNKS)
            ranks.append(1.0 + (similarity > similarity[np.arange(questions), good][:, None]).sum(axis=1))
        return ranks

    def blur_of_gain(self, gain: float) -> float:
        """Find the blur that raises recall@1 by this gain, over 20,000 questions with the same random numbers."""

        def recall(blur: float) -> float:
            random = np.random.default_rng(1)
            return float(np.mean([(self.compare((blur, blur), 2000, random)[0] == 1).mean() for _ in range(10)]))

        low, high, target = BLUR / 2, BLUR, recall(BLUR) + gain
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if recall(middle) > target else (low, middle)
        return (low + high) / 2


def _blur(questions: int, wordings: int, random: np.random.Generator) -> Float64Array:
    of_wording = random.standard_normal((questions, DIMENSION))
    if wordings == 1:
        return of_wording
    of_question = np.repeat(random.standard_normal((questions // wordings, DIMENSION)), wordings, axis=0)
    blur: Float64Array = np.sqrt(ALIKE) * of_question + np.sqrt(1 - ALIKE) * of_wording
    return blur


def scores(ranks: Float64Array) -> dict[str, dict[str, float]]:
    """Score ranks of single good chunks: recall@1, and nDCG@10, which is 1 / log2(1 + rank) within the first ten."""
    values = {"recall@1": ranks == 1, "ndcg@10": np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)}
    return {metric: {str(q): float(v) for q, v in enumerate(by_query)} for metric, by_query in values.items()}


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        shared: Share of the blur's variance that the two models have in common.
        gain: True gain in recall@1.
        wordings: Wordings of each question.
        grouped: Whether the wordings of a question are passed to `judge` as a group.
    """

    shared: float
    gain: float
    wordings: int = 1
    grouped: bool = False


def measure(case: Case, comparisons: int, questions: int) -> str:
    """Judge the comparisons, and return the table line with the rate of each verdict."""
    random = np.random.default_rng(0)
    chunks = random.standard_normal((CHUNKS, DIMENSION))
    world = World(chunks / np.linalg.norm(chunks, axis=1, keepdims=True), case.shared)
    blurs = (BLUR, world.blur_of_gain(case.gain) if case.gain else BLUR)
    names = [str(question) for question in range(questions)]
    groups = [names[first : first + case.wordings] for first in range(0, questions, case.wordings)]
    verdicts, changed, gains = [], [], []
    for seed in trange(comparisons, leave=False, disable=None):
        baseline, tuned = world.compare(blurs, questions, random, case.wordings)
        judgment = judge(scores(baseline), scores(tuned), groups=groups if case.grouped else None, seed=seed)
        verdicts.append(judgment.verdict)
        changed.append(((baseline == 1) != (tuned == 1)).mean())
        gains.append((tuned == 1).mean() - (baseline == 1).mean())
    rates = "".join(f"{verdicts.count(name) / comparisons:>10.1%}" for name in ("improved", "worse"))
    return (
        f"{case.shared:>11.2f}  {case.wordings:>8}  {'yes' if case.grouped else 'no':>7}  {case.gain:>9.3f}"
        f"  {np.mean(changed):>7.1%}  {np.mean(gains):>13.3f} {rates}"
    )


@click.command()
@click.option("--comparisons", default=500, show_default=True)
@click.option("--questions", default=400, show_default=True)
@click.option("--shared", default="0.95,0.9", show_default=True, help="Shares of the blur that both models have.")
@click.option("--wordings", default=5, show_default=True, help="Of each question, in the last lines.")
def main(comparisons: int, questions: int, shared: str, wordings: int) -> None:
    """Print how often each verdict is given, without and with a true gain."""
    if questions % wordings:
        raise click.UsageError(f"--questions {questions} is no multiple of --wordings {wordings}")
    shares = [float(share) for share in shared.split(",")]
    cases = [Case(share, gain) for share in shares for gain in (0.0, GAIN)]
    cases += [Case(shares[-1], 0.0, wordings, grouped) for grouped in (False, True)]
    cases += [Case(shares[-1], GAIN, wordings, grouped=True)]
    click.echo(f"{comparisons} comparisons of {questions} questions over {CHUNKS} chunks\n")
    click.echo("shared blur  wordings  grouped  true gain  changed  measured gain   improved   worse")
    for case in cases:
        click.echo(measure(case, comparisons, questions))


if __name__ == "__main__":
    main()

"""How often is the verdict right? Over simulated pairs of models whose true difference is known.

python scripts/bench_calibration.py --comparisons 500

A question's vector is its chunk's, blurred; a model is one way of blurring. Two models share a part of the
blur (both misread the same hard questions) and differ in the rest. Of equal blur they differ by noise alone;
a slightly lower blur is a true gain, set so that it is 5 points of recall@1 over very many questions.
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

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Chunks, and what is common to two models' blur.

    Attributes:
        chunks: (CHUNKS, DIMENSION), unit-norm.
        shared: Share of the variance of the blur that the two models have in common.
    """

    chunks: FloatArray
    shared: float

    def compare(self, blurs: tuple[float, float], questions: int, random: np.random.Generator) -> list[FloatArray]:
        """Rank as many new questions with two models: two arrays (questions,) of the good chunk's rank."""
        good = random.integers(CHUNKS, size=questions)
        common = random.standard_normal((questions, DIMENSION))
        ranks = []
        for blur in blurs:
            own = random.standard_normal((questions, DIMENSION))
            noise = np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own
            vectors = self.chunks[good] + blur / np.sqrt(DIMENSION) * noise
            similarity = vectors @ self.chunks.T  # (questions, CHUNKS)
            ranks.append(1.0 + (similarity > similarity[np.arange(questions), good][:, None]).sum(axis=1))
        return ranks

    def blur_of_gain(self, gain: float) -> float:
        """Find the blur whose recall@1 is higher by this gain, over 20,000 questions with the same random numbers."""

        def recall(blur: float) -> float:
            random = np.random.default_rng(1)
            return float(np.mean([(self.compare((blur, blur), 2000, random)[0] == 1).mean() for _ in range(10)]))

        low, high, target = BLUR / 2, BLUR, recall(BLUR) + gain
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if recall(middle) > target else (low, middle)
        return (low + high) / 2


def scores(ranks: FloatArray) -> dict[str, dict[str, float]]:
    """Score ranks of single good chunks: recall@1, and nDCG@10, which is 1 / log2(1 + rank) within the first ten."""
    values = {"recall@1": ranks == 1, "ndcg@10": np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)}
    return {metric: dict(enumerate(by_query.astype(float))) for metric, by_query in values.items()}  # type: ignore[arg-type]


@click.command()
@click.option("--comparisons", default=500, show_default=True)
@click.option("--questions", default=400, show_default=True)
@click.option("--shared", default="0.95,0.9", show_default=True, help="Shares of the blur that both models have.")
def main(comparisons: int, questions: int, shared: str) -> None:
    """Print how often each verdict is given, without and with a true gain."""
    click.echo(f"{comparisons} comparisons of {questions} questions over {CHUNKS} chunks\n")
    click.echo("shared blur  true gain  changed  measured gain   improved   worse")
    for share in map(float, shared.split(",")):
        random = np.random.default_rng(0)
        chunks = random.standard_normal((CHUNKS, DIMENSION))
        world = World(chunks / np.linalg.norm(chunks, axis=1, keepdims=True), share)
        for gain in (0.0, GAIN):
            blurs = (BLUR, world.blur_of_gain(gain) if gain else BLUR)
            verdicts, changed, gains = [], [], []
            for seed in trange(comparisons, leave=False, disable=None):
                baseline, tuned = world.compare(blurs, questions, random)
                verdicts.append(judge(scores(baseline), scores(tuned), seed=seed).verdict)
                changed.append(((baseline == 1) != (tuned == 1)).mean())
                gains.append((tuned == 1).mean() - (baseline == 1).mean())
            rates = "".join(f"{verdicts.count(name) / comparisons:>10.1%}" for name in ("improved", "worse"))
            click.echo(f"{share:>11.2f}  {gain:>9.3f}  {np.mean(changed):>7.1%}  {np.mean(gains):>13.3f} {rates}")


if __name__ == "__main__":
    main()

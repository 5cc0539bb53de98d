"""What a training run ends with."""

from dataclasses import dataclass

from sentence_transformers import SentenceTransformer

from docsgpt_embtune.evaluation.choice import Choice
from docsgpt_embtune.precision import Precision
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Windows
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.selection import ScoredCandidate


@dataclass(frozen=True)
class TunedModel:
    """A model after training, and how each candidate did on the validation questions.

    Attributes:
        model: Carries the weights of the chosen candidate in fp32.
        candidates: Every model that came up, in order.
        chosen: The best of them, better than the base or not, unless a guard spoke against it.
        choice: Their scores, and the base model's as it serves, on the validation questions.
        preferred: Whether it is better than the base's weights, and no guard speaks against it.
        evidence_needed: Whether a higher score is not enough and must be beyond what luck gives the best of so many
            candidates.
        windows: How long chunks are read, by validation and from now on.
        keywords: What stands beside the model's numbers in each vector, if anything does.
        precision: What the training computed in.
        mined: Bad chunks that were mined for want of given ones.
        seconds: Of mining, training and validation, without loading and writing.
        material: What was given to learn from and to choose by, parted as the run parted it.
    """

    model: SentenceTransformer
    candidates: list[ScoredCandidate]
    chosen: ScoredCandidate
    choice: Choice
    preferred: bool
    evidence_needed: bool
    windows: Windows
    keywords: Keywords | None
    precision: Precision
    mined: int
    seconds: float
    material: Material

    @property
    def improved(self) -> bool:
        """Whether validation prefers the chosen candidate to the base model."""
        return self.preferred and (not self.evidence_needed or self.choice.is_beyond_luck)

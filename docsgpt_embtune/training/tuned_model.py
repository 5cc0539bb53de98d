"""The result of a training run."""

from dataclasses import dataclass

from sentence_transformers import SentenceTransformer

from docsgpt_embtune.evaluation.best_of_many import Choice
from docsgpt_embtune.precision import Precision
from docsgpt_embtune.serving.keywords import Keywords
from docsgpt_embtune.serving.reading import Windows
from docsgpt_embtune.training.material import Material
from docsgpt_embtune.training.selection import ScoredCandidate


@dataclass(frozen=True)
class TunedModel:
    """A model after training, with the validation scores of every candidate.

    Attributes:
        model: The model, with the chosen candidate's weights in fp32.
        candidates: Every candidate that was scored, in order.
        chosen: The best candidate that no guard rules out, whether it beats the base or not.
        choice: Validation scores of all candidates, and of the base model as it serves.
        preferred: Whether the chosen candidate was kept over the base's weights, with no guard against it.
        evidence_needed: Whether a higher score is not enough: the gain must exceed what luck gives the best of so many
            candidates.
        windows: How long chunks were read in validation, and are to be read from now on.
        keywords: The keywords beside the model's numbers in each vector, if there are any.
        precision: The precision that training computed in.
        mined: Number of bad chunks that were mined where too few were given.
        seconds: Time for mining, training and validation, without loading and writing.
        material: What the run was given, split into training and validation as the run split it.
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

"""The settings of a training run, in one frozen object that is written into the model folder."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from docsgpt_embtune.precision import Precision

SEED = 13  # the default for everything random
LossName = Literal["online-contrastive", "cosine-similarity", "multiple-negatives-ranking"]


class SettingError(ValueError):
    """A setting is out of range.

    Args:
        field: Name of the field.
        fault: What it must be, ending in "got".
        value: Its value.
    """

    def __init__(self, field: str, fault: str, value: object) -> None:
        super().__init__(f"{field} {fault} {value!r}")
        self.field, self.fault, self.value = field, fault, value

    @property
    def of_option(self) -> str:
        """The message for the command-line option that sets this field."""
        value = ",".join(map(str, self.value)) if isinstance(self.value, tuple) else self.value
        return f"--{self.field.replace('_', '-')} {self.fault} {value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of a training run; the defaults were chosen on validation splits, never on test.

    Raises:
        SettingError: If a value is out of range, naming field and value.
    """

    loss: LossName = "online-contrastive"
    epochs: int = 1  # at most: the best one on validation is kept; two suffice to memorise few questions
    batch_size: int = 10  # rows per step: (question, chunk) pairs, or for ranking questions with their chunks
    learning_rate: float = 2e-5
    warmup: float = 0.1  # share of all steps; then linear decay to zero
    negatives: int = 1  # bad chunks per good one, where the loss takes them; missing ones are mined
    widths: tuple[int, ...] = ()  # Matryoshka widths: so many first numbers of a vector must also work by themselves
    seed: int = SEED
    precision: Precision = "auto"  # of the arithmetic in training; the saved weights are always fp32
    device: str | None = None  # torch's name; None takes a GPU if there is one
    report_to: tuple[str, ...] = ()  # where transformers sends the curves, e.g. "tensorboard"

    def __post_init__(self) -> None:
        """Check every field, as each may come from a command line."""
        for field, value, choices in (("loss", self.loss, LossName), ("precision", self.precision, Precision)):
            _require(value in get_args(choices), field, value, f"one of {', '.join(get_args(choices))}")
        _require(1 <= self.epochs <= 1000, "epochs", self.epochs, "1 to 1000")
        _require(2 <= self.batch_size <= 65536, "batch_size", self.batch_size, "2 to 65536")
        _require(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "above 0 and below 1, e.g. 2e-5")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share of the steps, 0 up to 1")
        _require(1 <= self.negatives <= 100, "negatives", self.negatives, "1 to 100")
        _require(all(width >= 1 for width in self.widths), "widths", self.widths, "1 or more each")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict for JSON."""
        return asdict(self)


def _require(holds: bool, field: str, value: object, range_in_words: str) -> None:
    if not holds:
        raise SettingError(field, f"must be {range_in_words}; got", value)

"""The keywords and windows that a tuned base serves with beside its weights, and must be judged with."""

from dataclasses import dataclass

from docsgpt_embtune.base_models import BaseModel
from docsgpt_embtune.manifest import Manifest
from docsgpt_embtune.serving.keywords import Keywords, load_keywords
from docsgpt_embtune.serving.reading import Reading, WindowReader


@dataclass(frozen=True)
class Extras:
    """What a model serves with beside its weights.

    Attributes:
        keywords: The keywords beside the model's numbers in each vector, if there are any.
        windows: Cuts long chunks into windows; None where they are truncated.
    """

    keywords: Keywords | None = None
    windows: WindowReader | None = None

    def __bool__(self) -> bool:
        """Tell whether there is anything beside the weights."""
        return bool(self.keywords or self.windows)

    def __str__(self) -> str:
        """Name what there is."""
        there = {"keywords": self.keywords, "windows": self.windows}
        return " and ".join(name for name, each in there.items() if each)


NO_EXTRAS = Extras()


def wide(model_width: int, keywords: Keywords | None) -> str:
    """Say how wide vectors are, and how much of that is keywords."""
    return (
        f"{model_width + keywords.width} wide ({keywords.width} of it keywords)" if keywords else f"{model_width} wide"
    )


def extras_of(base: BaseModel, made_of: Manifest, reader: WindowReader | None) -> Extras:
    """Return what a base model serves with beside its weights.

    Args:
        base: From `resolve_base`.
        made_of: Its manifest; empty if it is no tuned folder, and so has nothing beside its weights.
        reader: Cuts chunks for it; None if it cannot read in windows.

    Raises:
        ModelFolderError: If its keywords cannot be read.
    """
    if not made_of:
        return NO_EXTRAS
    return Extras(load_keywords(base.folder), reader if Reading.of(made_of).windows != "off" else None)

"""The prompts for a language model: two files that the user can change."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from docsgpt_embtune.errors import GenerationError

QUESTIONS_FILE = "questions.txt"
JUDGE_FILE = "judge.txt"
_PLACEHOLDERS = {QUESTIONS_FILE: {"count", "passage"}, JUDGE_FILE: {"passages", "questions"}}


@dataclass(frozen=True)
class Prompts:
    """The two prompts, as templates.

    Attributes:
        questions: Asks for questions about a passage; placeholders $count and $passage.
        judge: Asks which passages answer which questions; placeholders $passages and $questions.
    """

    questions: Template
    judge: Template


def load_prompts(folder: Path | None = None) -> Prompts:
    """Read the prompts from a folder, or the ones that come with the package.

    Args:
        folder: Holds `questions.txt`, `judge.txt`, or both; the package's own stands in for a missing one.

    Raises:
        GenerationError: If a file cannot be read, or lacks or misspells a placeholder; or the folder holds neither.
    """
    if folder is not None and not any((folder / name).is_file() for name in _PLACEHOLDERS):
        raise GenerationError(f"{folder}: neither {QUESTIONS_FILE} nor {JUDGE_FILE} in it; make them: --write-prompts")
    return Prompts(_read(folder, QUESTIONS_FILE), _read(folder, JUDGE_FILE))


def write_prompts(folder: Path) -> list[Path]:
    """Copy the package's prompts to a folder for editing; existing files are kept.

    Returns:
        The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [folder / name for name in _PLACEHOLDERS if not (folder / name).exists()]
    for path in missing:
        path.write_text(_packaged(path.name), encoding="utf-8")
    return missing


def _read(folder: Path | None, name: str) -> Template:
    if folder is None or not (folder / name).is_file():
        return Template(_packaged(name))
    path = folder / name
    try:
        template = Template(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise GenerationError(f"{path}: cannot be read ({error})") from error
    if not template.is_valid() or set(template.get_identifiers()) != _PLACEHOLDERS[name]:
        wanted = " and ".join(f"${placeholder}" for placeholder in sorted(_PLACEHOLDERS[name]))
        raise GenerationError(f"{path}: has to hold {wanted}, no other $name, and $$ for a dollar sign")
    return template


def _packaged(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")

"""Made-up data with nothing wrong, and `embtune prepare` run on them."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset

WORDS = [f"{number:04}" for number in range(3600)]  # digits: of no language


def sentence(number: int, length: int = 24) -> str:
    """Words that no other number shares."""
    return " ".join(WORDS[number * length : (number + 1) * length])


def made_up(questions: int) -> dict:
    """A question for each chunk, nothing wrong with any."""
    return {
        "queries": {f"q{n}": f"Where is {WORDS[-n - 1]} {WORDS[-n - 501]}?" for n in range(questions)},
        "corpus": {f"c{n}": sentence(n).capitalize() + "." for n in range(questions)},
        "relevant_docs": {f"q{n}": [f"c{n}"] for n in range(questions)},
        "irrelevant_docs": {},
    }


def write(folder: Path, content: dict, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", "--model", "none", *map(str, arguments)])


def changes(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "changes.jsonl").read_text(encoding="utf-8").splitlines()]


def edited(text: str) -> str:
    words = text.split()
    return " ".join(words[:10] + words[11:])


def numbered(text: str) -> str:
    """Return what says the same, as another item of a list."""
    return f"(3) The {text.removesuffix('.')}"


def splits_of(folder: Path) -> dict[str, set[str]]:
    files = {path.stem: path for path in folder.glob("*.json") if path.stem != "corpus"}
    return {name: set(load_dataset(path, corpus=folder / "corpus.json").queries) for name, path in files.items()}

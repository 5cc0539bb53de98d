"""No package takes from one that takes from it: what a reader has open never needs what stands above it."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import docsgpt_embtune

ROOT = Path(docsgpt_embtune.__file__).parent


def package_of(module: str) -> str:
    """Return the package, or the module at the top level, that a dotted name stands in."""
    return module.split(".")[1] if "." in module else module


def taken_by(path: Path) -> set[str]:
    """List what a module takes from, imports within functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {package_of(name) for name in names if name.startswith("docsgpt_embtune.")}


def test_packages_take_from_each_other_in_one_direction():
    graph: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        graph[own] |= taken_by(path) - {own}
    assert graph["training"] >= {"data", "evaluation"}  # the names are found at all
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" takes from ".join(reversed(error.args[1]))) from None


def test_names_at_the_top_are_there_and_cost_nothing_until_asked_for():
    code = (
        "import sys, docsgpt_embtune as package; heavy = {'torch', 'numpy', 'typing'} & (sys.modules.keys() - before);"
        "assert not heavy, heavy; print(*[name for name in package.__all__ if callable(getattr(package, name))])"
    )
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; before = set(sys.modules); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == docsgpt_embtune.__all__
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        docsgpt_embtune.tarin  # noqa: B018

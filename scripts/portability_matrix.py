"""Load a model folder with each sentence-transformers that DocsGPT has pinned since 0.11, and compare the vectors.

    python scripts/portability_matrix.py models/tuned --environments /tmp/environments

Each version gets its own virtual environment, which the first run creates with pip. The folder is loaded as DocsGPT
loads it, and its vectors must agree with the first version's to 1e-6. Exit code 1 if any do not.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

# The versions that DocsGPT's releases pin, with transformers and numpy of that time, and the current version.
PINS = {
    "3.0.1": ("transformers==4.44.2", "huggingface_hub<0.26", "numpy<2"),  # DocsGPT 0.11 to 0.12
    "3.3.1": ("transformers==4.46.3", "numpy<2.3"),  # 0.13 to 0.15
    "5.3.0": ("transformers<5",),  # 0.16 to 0.18
    "5.7.0": ("transformers==5.8.1",),  # 0.19
    "6.2.0": (),
}
TOLERANCE = 1e-6

EMBED = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(
    sys.argv[1], trust_remote_code=True, config_kwargs={"allow_dangerous_deserialization": True}, device="cpu"
)
texts = ["How do I rotate the log files?", "word " * 600, "ünïcödé, 数据, 🙂", "An invoice can be cancelled.", "a"]
print(json.dumps(model.encode(texts).tolist()))
"""


def main() -> None:
    """Create the environments, embed in each, and compare the vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--environments", type=Path, required=True, help="where the environments are kept")
    parser.add_argument("--torch", default="torch", help="what to install as torch, e.g. torch==2.13.0+cpu")
    arguments = parser.parse_args()
    first = None
    agree = True
    for version, pins in PINS.items():
        python = environment(arguments.environments / version, version, [arguments.torch, *pins])
        embedded = subprocess.run(
            [str(python), "-W", "ignore", "-c", EMBED, str(arguments.model.resolve())], capture_output=True, text=True
        )
        if embedded.returncode:
            agree = False
            print(f"sentence-transformers {version}: does not load: {embedded.stderr.splitlines()[-1]}")
            continue
        vectors = np.array(json.loads(embedded.stdout.splitlines()[-1]))
        first = vectors if first is None else first
        difference = float(np.abs(vectors - first).max())
        agree &= difference <= TOLERANCE
        print(f"sentence-transformers {version}: loads, largest difference {difference:.1e}")
    sys.exit(0 if agree else 1)


def environment(folder: Path, version: str, requirements: list[str]) -> Path:
    """Create a virtual environment with this version unless it exists, and return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        wanted = [f"sentence-transformers=={version}", *requirements]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return python


if __name__ == "__main__":
    main()

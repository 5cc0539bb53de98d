"""Kill a training run with SIGKILL at random moments, resume it, and compare the weights with an undisturbed run's.

    python scripts/kill_training.py --kills 20

Trains a base model on a part of the bundled sample: once undisturbed, and once with this many kills before it may
finish. Both model folders must have the same fingerprint.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTIONS, CHUNKS = 48, 160
# Code of every run. It saves ten times a second, so that a kill within a stage finds a checkpoint.
CHILD = """
import sys
from docsgpt_embtune.cli.train import train
from docsgpt_embtune.training import callbacks
callbacks.SECONDS_BETWEEN_SAVES = 0.1
train(sys.argv[1:])
"""


def main() -> None:
    """Train, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--base", default="bundled", help="a small one is killed sooner")
    parser.add_argument("--folds", action="store_true", help="without validation questions")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="embtune-kill-") as folder:
        files = ["--base", arguments.base, *write_data(Path(folder), in_folds=arguments.folds)]
        started = time.monotonic()
        expected = finish(files, Path(folder) / "undisturbed")
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.0f} s, weights {expected[:12]}")
        kills = 0
        while kills < arguments.kills:  # a run that ends before it is killed does not count
            left = killed(files, Path(folder) / "killed", draw.uniform(0.3, 1.0) * seconds)
            kills += left is not None
            print(f"kill {kills}: {left}" if left else "ended before it was killed", flush=True)
        found = finish(files, Path(folder) / "killed")
    print(f"after {arguments.kills} kills: weights {found[:12]}, {'the same' if found == expected else 'DIFFERENT'}")
    sys.exit(0 if found == expected else 1)


def write_data(folder: Path, *, in_folds: bool) -> list[str]:
    """Write a part of the sample that is small enough for many runs, and return the options that name the files."""
    from docsgpt_embtune.data.dataset import RetrievalDataset, save_dataset
    from docsgpt_embtune.data.sample import load_sample

    options = []
    for split, option in [("train", "--train"), *([] if in_folds else [("validation", "--val")])]:
        whole = load_sample()[split]
        part = whole.subset(list(whole.queries)[:QUESTIONS])
        judged = [
            doc for judgments in (part.relevant_docs, part.irrelevant_docs) for ids in judgments.values() for doc in ids
        ]
        kept = {doc: whole.corpus[doc] for doc in [*judged, *list(whole.corpus)[:CHUNKS]]}
        path = folder / f"{split}.json"
        save_dataset(RetrievalDataset(part.queries, kept, part.relevant_docs, part.irrelevant_docs), path)
        options += [option, str(path)]
    return options


def start(files: list[str], out: Path) -> "subprocess.Popen[bytes]":
    """Start a run, or resume a killed one."""
    options = ["--out", str(out), *"--resume --keep-worse --time-budget 999".split()]
    command = [sys.executable, "-c", CHILD, *files, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(files: list[str], out: Path, seconds: float) -> str | None:
    """Kill a run after this many seconds and return how far it had come; None if it ended before."""
    run = start(files, out)
    try:
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.wait()
        folder = out.parent / f".{out.name}.run"
        saved = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("stage-*/checkpoint-*"))
        return f"after {seconds:.0f} s, {', '.join(saved) or 'no checkpoint'} left"
    shutil.rmtree(out)  # a finished run cannot be resumed
    return None


def finish(files: list[str], out: Path) -> str:
    """Let a run finish, and return the fingerprint of its weights."""
    from docsgpt_embtune.manifest import read_manifest

    if start(files, out).wait() != 0:
        raise SystemExit(f"the run to {out} failed")
    fingerprint: str = read_manifest(out)["fingerprint"]
    return fingerprint


if __name__ == "__main__":
    main()

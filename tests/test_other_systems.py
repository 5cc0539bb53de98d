"""What Windows lacks is not needed to train, check and serve there. None is at hand: Linux plays its part."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from docsgpt_embtune.data.dataset import save_dataset
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.errors import DeploymentError

from .gateway_process import KEY, serving
from .sample_questions import TRAINING, VALIDATION, VERBS, dataset

AS_WINDOWS = ("-W", "ignore", "-m", "tests.other_systems")
EXPLICIT = "--loss multiple-negatives-ranking --epochs 1 --precision fp32 --keep-worse"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is in use")
def test_model_is_trained_checked_and_served_without_what_windows_lacks(tmp_path, tiny_base_folder):
    for name, questions in {"train": TRAINING, "val": VALIDATION, "unseen": dataset(verbs=VERBS[6:])}.items():
        save_dataset(questions, tmp_path / f"{name}.json")
    train = f"train --train train.json --val val.json --base {tiny_base_folder} --out tuned {EXPLICIT}"
    adapt = "adapt --model tuned --train val.json --out adapted --keep-worse"
    check = f"check --baseline {tiny_base_folder} --tuned tuned --data unseen.json --no-cache"
    commands = " -- ".join([train, f"{train} --zip", adapt, "export tuned", adapt, check])  # some over what was there
    done = subprocess.run(
        [sys.executable, *AS_WINDOWS, *commands.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode in (0, 1), done.stderr  # the check's answer
    assert "ndcg@10" in done.stdout
    left = {"train.json", "val.json", "unseen.json", "tuned", "adapted", "model-embeddings.zip"}
    assert {path.name for path in tmp_path.iterdir()} == left
    with serving(*AS_WINDOWS, "serve", str(tmp_path / "tuned"), "--port", "0") as process:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        body = json.dumps({"model": "tuned", "input": "when is the log kept"}).encode()
        asked = urllib.request.Request(f"{process.address}/v1/embeddings", body, headers)
        (answer,) = json.load(urllib.request.urlopen(asked))["data"]
        assert len(answer["embedding"]) == 32


def test_reembedding_is_refused_on_windows_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(DeploymentError, match="that Windows does not have; run it where DocsGPT runs"):
        steps.reembed([], None)

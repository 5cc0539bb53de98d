"""The folder that is written: as private as its source, and never half of one."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from docsgpt_embtune.data.preparation import prepare as prepare_module
from docsgpt_embtune.data.preparation import splitting

from .made_up_data import made_up, prepare, write


@pytest.mark.parametrize(("mode", "of_folder", "of_files"), [(0o600, 0o700, 0o600), (0o640, 0o755, 0o644)])
def test_what_comes_of_private_data_is_private(tmp_path, mode, of_folder, of_files):
    source, out = write(tmp_path, made_up(40)), tmp_path / "out"
    source.chmod(mode)
    assert prepare(source, "--fix", "--out", out).exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == of_folder
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {of_files}
    assert {path.name for path in out.iterdir()} >= {"train.json", "corpus.json", "changes.jsonl"}


def test_existing_output_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    result = prepare(tmp_path / "nowhere.json", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "out: exists already" in result.stderr


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    result = prepare(write(tmp_path, made_up(40)), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "exists already" in result.stderr


def test_what_comes_to_stand_at_the_output_meanwhile_is_left_alone(tmp_path, monkeypatch):
    def split_slowly(*arguments, **options):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("precious", encoding="utf-8")
        return splitting.split_questions(*arguments, **options)

    monkeypatch.setattr(prepare_module, "split_questions", split_slowly)
    result = prepare(write(tmp_path, made_up(40)), "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "out: exists already" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "out"]


def test_sigterm_in_a_long_statement_leaves_no_text_behind(tmp_path):
    code = """
from docsgpt_embtune.cli import main
from docsgpt_embtune.data.preparation import prepare as prepare_module

def split_questions(store, *arguments, **options):
    print("splitting", flush=True)
    store.query("SELECT count(*) FROM range(1_000_000_000_000) AS t(number) WHERE hash(number) = 1")

prepare_module.split_questions = split_questions
main()
"""
    arguments = ["prepare", write(tmp_path, made_up(40)), "--out", tmp_path / "out", "--model", "none"]
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"splitting\n"
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_new_folder_is_open_to_other_users(tmp_path):
    source = write(tmp_path, made_up(40))
    before = os.umask(0o077)
    try:
        prepare(source, "--out", tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755

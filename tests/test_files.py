"""Files and folders that are replaced whole."""

import os
import signal
import subprocess
import sys

import pytest

from docsgpt_embtune.files import file_written_whole, folder_written_whole, write_text_atomically


def test_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to("real/file")
    write_text_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "real"]


def test_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "old").touch()
    (tmp_path / "current").symlink_to("v1")
    with folder_written_whole(tmp_path / "current") as folder:
        (folder / "new").touch()
    assert (tmp_path / "current").is_symlink()
    assert [path.name for path in (tmp_path / "v1").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v1"]


def test_what_a_killed_run_left_is_removed_and_not_what_another_run_writes(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom docsgpt_embtune.files import folder_written_whole\n"
        "with folder_written_whole(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'model.onnx').touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("model [1]", "model"):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)])
        assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.partial"))) == 2
    with folder_written_whole(tmp_path / "model [1]") as one, folder_written_whole(tmp_path / "model [1]") as other:
        assert one.is_dir()
        (other / "file").touch()
    (left,) = tmp_path.glob(".*.partial")
    assert left.name.startswith(".model.")
    with folder_written_whole(tmp_path / "model"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model [1]"]


def fail_in_a_file(folder, stop):
    with file_written_whole(folder / "file") as file:
        file.write_text("half")
        raise stop


def fail_in_a_folder(folder, stop):
    with folder_written_whole(folder / "folder") as written:
        (written / "half").touch()
        raise stop


@pytest.mark.parametrize("stop", [OSError("a disk is full"), KeyboardInterrupt()])
def test_what_fails_while_it_is_written_leaves_the_old_and_nothing_beside_it(tmp_path, stop):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    for write in (fail_in_a_file, fail_in_a_folder):
        with pytest.raises(type(stop)):
            write(tmp_path, stop)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 65534, 65533)
    write_text_atomically(path, "new", mode=0o640)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o640)

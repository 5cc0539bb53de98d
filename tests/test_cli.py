import csv
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError

from docsgpt_embtune.cli import main
from docsgpt_embtune.cli.command import EmbtuneCommand
from docsgpt_embtune.cli.options import minutes
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.files import write_text_atomically
from docsgpt_embtune.stopping import told_when_stopped

COMMAND = click.Command("train", params=[click.Option(["--time-budget"], callback=minutes)])


def read(*told: str) -> object:
    return COMMAND.make_context("train", list(told)).params["time_budget"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [("20", 20), ("2.5", 2.5), ("90s", 1.5), ("10m", 10), ("1.5h", 90), ("1h30m", 90), (".5h6s", 30.1)],
)
def test_time_has_a_unit_or_is_in_minutes(told, expected):
    assert read("--time-budget", told) == pytest.approx(expected)


def test_no_time_is_none():
    assert read() is None


@pytest.mark.parametrize("told", ["", "m", "ten", "10 min", "30m1h", "1h30", "1..5h", "-5m", "10d"])
def test_other_times_are_refused_with_what_would_do(told):
    with pytest.raises(click.BadParameter, match=r"is not a time like 90s, 10m or 1h30m"):
        read("--time-budget", told)


@pytest.mark.parametrize("told", ["0", "0h0m", "-5", "inf", "nan"])
def test_no_time_and_endless_time_are_refused_by_the_option_s_name(told):
    with pytest.raises(click.BadParameter, match="give a time above 0 that ends") as refused:
        read("--time-budget", told)
    assert refused.value.param.opts == ["--time-budget"]


def one_line(*arguments):
    """Run a command that must fail, and return what it says."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    return line


@pytest.fixture
def places(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps({"c": "# Resetting a password\n\nOpen the account page."}))
    (tmp_path / "guide.md").write_text("# Resetting a password\n\nOpen the account page.")
    (tmp_path / "table.csv").write_text("question,good\nhow is it reset,on the page\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_an_output_that_cannot_be_written_is_one_line(places):
    file = places / "table.csv"
    assert "File exists; give another path" in one_line("synthesize", "--write-prompts", file)
    assert "File exists; give another path" in one_line("sample", "--out", file)
    assert f"{file} is not a folder" in one_line("train", "--corpus", places / "corpus.json", "--out", file / "x")
    assert sorted(path.name for path in places.iterdir()) == ["corpus.json", "folder", "guide.md", "table.csv"]


def test_where_curves_go_is_known_before_the_work(places):
    said = one_line("train", "--corpus", places / "corpus.json", "--out", places / "m", "--report-to", "tensorbord")
    assert said.startswith("error: --report-to 'tensorbord': not installed, or unknown; here ")


def test_rows_may_name_chunks_by_id(places):
    (places / "ids.csv").write_text("question,good\nhow is it reset,c\n")
    found = load_dataset(places / "ids.csv", corpus=places / "corpus.json")
    assert list(found.relevant_docs.values()) == [("c",)]
    (places / "ids.csv").write_text("question,good\nhow is it reset,nowhere\n")
    with pytest.raises(DatasetError, match=r"ids.csv: names chunks that .*corpus.json does not have.*: 'nowhere' "):
        load_dataset(places / "ids.csv", corpus=places / "corpus.json")


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("Turn it off.\r\nWait &amp; see\u00a0\u2013 ten minutes in a cafe\u0301. ", id="another spelling"),
        pytest.param("Turn it off. Wait & see \u2013 ten minutes in a caf\u00e9.", id="one line"),
        pytest.param(" c2 ", id="an id with blanks"),
    ],
)
def test_rows_may_name_chunks_as_a_spreadsheet_changed_them(places, named):
    text = "Turn it off.\nWait & see \u2013 ten minutes in a caf\u00e9."
    (places / "two.json").write_text(json.dumps({"c1": "Turn it on.", "c2": text, "c3": f"{text}\n"}))
    with (places / "named.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "good"), ("how is it reset", named), ("how is it started", "c1")])
    found = load_dataset(places / "named.csv", corpus=places / "two.json")
    assert list(found.relevant_docs.values()) == [("c2",), ("c1",)]


def test_the_output_is_named_and_not_the_file_beside_it(places):
    @click.command(cls=EmbtuneCommand)
    def write():
        write_text_atomically(places / "folder", "text")

    assert CliRunner().invoke(write).output == (
        f"error: {places / 'folder'}: Is a directory; give another path, or see to its rights and the room on its "
        "disk\n"
    )


def fill_a_disk():
    with open("/dev/full", "w") as file:
        file.write("text")


def fill_a_disk_with_weights():
    # What safetensors raises, word for word: it writes to no device that is always full.
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("write", [fill_a_disk, fill_a_disk_with_weights])
def test_a_full_disk_is_one_line_although_the_error_names_no_file(write):
    result = CliRunner().invoke(EmbtuneCommand("write", callback=write))
    assert result.exit_code == 2
    assert result.output == (
        "error: a disk is full (No space left on device); make room, or give paths on another one\n"
    )


def test_no_folder_for_temporary_files_is_one_line():
    command = "EmbtuneCommand('', callback=tempfile.mkdtemp)([])"
    code = f"import tempfile; from docsgpt_embtune.cli.command import EmbtuneCommand; {command}"
    write_nothing = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=write_nothing)
    assert (done.returncode, done.stderr) == (
        2,
        "error: no folder for temporary files can be written to; set TMPDIR to one that can\n",
    )


def test_full_gpu_is_no_answer_and_no_traceback():
    def fill_a_gpu():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 15 GiB.")

    result = CliRunner().invoke(EmbtuneCommand("train", callback=fill_a_gpu))
    assert result.exit_code == 2
    assert result.output.startswith("error: the GPU's memory is full (CUDA out of memory); ")
    assert "--device cpu" in result.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_file_that_the_error_names(number):
    def write():
        raise OSError(number, os.strerror(number), "weights.partial")

    result = CliRunner().invoke(EmbtuneCommand("write", callback=write))
    assert result.exit_code == 2
    assert result.output.startswith("error: weights.partial: a disk is full (")


def test_a_base_that_does_not_fit_on_the_disk_is_told_before_the_training(places, tiny_base_folder, monkeypatch):
    model, megabyte = places / "m", 10**6
    (places / ".m.run").mkdir()
    monkeypatch.setattr("docsgpt_embtune.training.train.size_of_model", lambda folder: 100 * megabyte)
    train = ["train", "--corpus", places / "corpus.json", "--base", tiny_base_folder, "--out", model]

    def with_free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, count))
        return one_line(*train)

    enough = with_free(300 * megabyte)
    assert "are needed" not in enough
    assert with_free(299 * megabyte) == (
        f"error: {model}: {places} has 299 MB free, and 300 MB are needed for the model and what its run keeps; make "
        "room, or give another --out"
    )
    (places / ".m.run" / "best.safetensors").write_bytes(bytes(megabyte))  # as much of it is there already
    assert with_free(299 * megabyte) == enough
    monkeypatch.setenv("WORLD_SIZE", "2")  # such a run keeps nothing
    assert "100 MB are needed" in with_free(99 * megabyte)


def test_ctrl_c_is_not_taken_for_the_answer_no():
    @click.command(cls=EmbtuneCommand)
    def wait():
        raise KeyboardInterrupt

    result = CliRunner().invoke(wait)
    assert (result.exit_code, result.output) == (130, "stopped\n")


def test_ctrl_c_of_which_all_is_said_is_not_told_again():
    @click.command(cls=EmbtuneCommand)
    def wait():
        with told_when_stopped(lambda stop: click.echo("stopped     it goes on from here")):
            raise KeyboardInterrupt

    result = CliRunner().invoke(wait)
    assert (result.exit_code, result.output) == (130, "stopped     it goes on from here\n")


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("code", [0, 1])
def test_who_does_not_read_changes_neither_the_work_nor_the_exit_code(places, code, unbuffered):
    long = "'x' * 100_000"  # more than a pipe and the buffers before it hold
    work = f"tqdm.write('x'), click.echo({long}), print({long}), open('done', 'w').close(), sys.exit({code})"
    done = run_command(work, cwd=places, env=unbuffered, preexec_fn=nobody_reads)
    assert done.returncode == code
    assert (places / "done").exists()


def nobody_reads():
    """Let standard output be a pipe whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def run_command(work, env, **how):
    program = f"import click, os, sys; from tqdm import tqdm; EmbtuneCommand('any', callback=lambda: ({work}))([])"
    return subprocess.run(
        [sys.executable, "-c", f"from docsgpt_embtune.cli.command import EmbtuneCommand; {program}"],
        env={**os.environ, **env},
        timeout=120,
        **how,
    )


def test_letters_that_a_stream_does_not_have_are_written_as_numbers():
    work = "tqdm.write('m/s\\xfc t'), print('\\u2013', file=sys.stderr)"
    done = run_command(work, {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "m/s\\xfc t\n", "\\u2013\n")


def test_controls_of_other_peoples_texts_are_shown_and_those_of_a_bar_are_obeyed():
    texts = r"'\x1b]52;c;ZXZpbA==\x07 \x9b2J \x1b[31m \x7f\t\xfc\u2013'"
    shown = r"\x1b]52;c;ZXZpbA==\x07 \x9b2J \x1b[31m \x7f" + "\tü–"
    bar = r"print('\r\x1b[Abar', end='', file=sys.stderr)"
    assert on_a_terminal(f"print({texts}), tqdm.write({texts}), {bar}") == f"{shown}\r\n{shown}\r\n\r\x1b[Abar"


def on_a_terminal(work):
    ours, terminal = os.openpty()
    run_command(work, {}, stdout=terminal, stderr=terminal, check=True)
    os.close(terminal)
    drawn = b""
    with open(ours, "rb", buffering=0) as screen, suppress(OSError):  # at its end
        while piece := screen.read(1000):
            drawn += piece
    return drawn.decode()


def test_letters_that_python_was_told_not_to_read_are_refused(places):
    told = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "docsgpt_embtune", "prepare", "frägen.csv"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **told})
    assert done.returncode == 2
    assert "has letters that are not in this Python's encoding (ascii); set PYTHONUTF8=1" in done.stderr


def test_a_second_value_of_an_option_that_takes_one_is_refused():
    @click.command(cls=EmbtuneCommand)
    @click.argument("files", nargs=-1)
    @click.option("--baseline", "-b")
    @click.option("--guard", multiple=True)
    @click.option("--yes", is_flag=True)
    def compare(files, baseline, guard, yes):
        click.echo(f"{files} {baseline} {guard} {yes}")

    def told(*arguments):
        return CliRunner().invoke(compare, arguments)

    assert told("a", "b", "--guard", "c", "--guard", "d", "--yes", "--yes", "-b", "e").output == (
        "('a', 'b') e ('c', 'd') True\n"
    )
    for twice in (("--baseline", "a", "--baseline", "b"), ("-b", "a", "--baseline=a")):
        refused = told(*twice)
        assert refused.exit_code == 2
        assert "Invalid value for '--baseline' / '-b': given 2 times, and takes one value;" in refused.output


def test_errors_without_a_file_keep_their_traceback():
    @click.command(cls=EmbtuneCommand)
    def broken():
        raise TimeoutError("no file's fault")

    assert isinstance(CliRunner().invoke(broken).exception, TimeoutError)


def test_outputs_are_checked_before_the_work(places):
    folder, corpus, guide = places / "folder", places / "corpus.json", places / "guide.md"
    chunks = ["chunks", "--documents", guide, "--out"]
    assert "is a folder, and not a file that can be replaced" in one_line(*chunks, folder)
    assert "is a folder, and not a file" in one_line(*chunks, places / "c.json", "--document-of", folder)
    assert "is named twice" in one_line(*chunks, places / "c.json", "--document-of", folder / ".." / "c.json")
    assert "is named twice, or read, and would be written over" in one_line(*chunks, guide)
    (folder / "index.json").write_text("{}")
    assert "is named twice, or read" in one_line("chunks", "--indexes", places, "--out", folder / "index.json")
    synthesize = ["synthesize", "--corpus", corpus, "--out"]
    server = ["--llm-base-url", "http://localhost:1/v1", "--llm-model", "m"]
    assert "is a folder, and not a file" in one_line(*synthesize, folder, "--offline")
    assert f"{guide} is not a folder" in one_line(*synthesize, guide / "x.json", *server)
    assert "is named twice" in one_line(*synthesize, corpus, "--offline")
    check = ["check", "--baseline", "nowhere", "--tuned", "nowhere", "--data", places / "table.csv"]
    assert "is named twice" in one_line(*check, "--corpus", corpus, "--json", places / "table.csv")
    assert "is named twice" in one_line(*check, "--corpus", corpus, "--report", corpus)
    assert "is named twice" in one_line(*check, "--json", places / "same", "--report", places / "same")
    assert f"{guide} is not a folder" in one_line(*check, "--json", guide / "x.json")
    assert "'-': standard output has what the command says; give the name of" in one_line(*check, "--json", "-")
    assert "is a pipe or a device, and not a file that can be" in one_line(*check, "--report", os.devnull)
    harvest = ["harvest", "--corpus", corpus, "--mongo-export", places / "nowhere.json"]
    assert "ends in .csv or .jsonl, not in '.xlsx'" in one_line(*harvest, "--review", places / "review.xlsx")
    assert "is named twice" in one_line(
        "harvest", "--corpus", corpus, "--reviewed", places / "table.csv", "--out", places / "table.csv"
    )
    (places / "nowhere.json").touch()
    assert "is named twice" in one_line(*harvest, "--out", places / "nowhere.json", "--accept-unreviewed", "--yes")
    assert not (places / "c.json").exists()


def test_a_device_that_torch_does_not_have_is_one_line(places):
    said = one_line("train", "--corpus", places / "corpus.json", "--out", places / "model", "--device", "nope")
    assert "--device 'nope': nothing that torch can compute on here" in said


def test_a_model_that_is_nowhere_gets_advice_that_fits_the_command(places, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(places))
    said = one_line("chunks", "--documents", places, "--tokenizer", "nope", "--out", places / "c.json")
    assert "--base" not in said
    assert "give 'bundled', or a folder that holds the model" in said


def test_a_base_where_a_tuned_folder_is_wanted_is_told_so(places, tiny_base_folder, monkeypatch):
    monkeypatch.chdir(places)
    given = ["--train", places / "table.csv", "--out", places / "m"]
    wanted = "give a folder that `embtune train` wrote"
    for command in (["export"], ["distill", *given], ["shrink", "--data", places / "table.csv", "--out", places / "m"]):
        name, *others = command
        assert one_line(name, "bundled", *others) == f"error: {places / 'bundled'}: no such model folder; {wanted}"
        assert one_line(name, tiny_base_folder, *others).endswith(
            f"not a tuned model (it has no embtune.json); {wanted}"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP of Linux builds of torch")
@pytest.mark.parametrize(("told", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")])
def test_threads_of_a_command_do_not_spin_unless_told(told, spins):
    # What the library itself says that it goes by, as it is loaded in the command.
    program = "EmbtuneCommand('any', callback=lambda: __import__('torch'))([])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", f"from docsgpt_embtune.cli.command import EmbtuneCommand; {program}"],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **told},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_commands_are_listed_in_the_order_in_which_they_are_needed():
    listed = CliRunner().invoke(main, ["--help"]).output
    places = [listed.index(f"\n  {name} ") for name in ("chunks", "prepare", "train", "check", "export", "reembed")]
    assert places == sorted(places)
    assert "..." not in listed.partition("Commands:")[2]  # each says what it does in a line

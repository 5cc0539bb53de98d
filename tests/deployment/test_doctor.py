"""One deployment for each way in which it can be wrong, and healthy ones that must not alarm."""

import json
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pytest
from click.testing import CliRunner

from docsgpt_embtune.base_models import HOST_DEFAULT
from docsgpt_embtune.cli import main
from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.doctor import examine, examine_settings, examine_settings_for_server
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.remote_model import RemoteModel

from ..embeddings_server import serving
from ..gateway_process import KEY
from .conftest import CHUNKS, as_nobody, make_inverted, rewrite_vectors, write_index_folder


def edit_json(folder, edit):
    content = json.loads((folder / "index.json").read_text())
    edit(content)
    (folder / "index.json").write_text(json.dumps(content))


def no_index(folder, tuned):
    (folder / "index.faiss").unlink()


def no_sidecar(folder, tuned):
    (folder / "index.json").unlink()
    (folder / "index.pkl").unlink()


def damaged_index(folder, tuned):
    content = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(content[: len(content) // 2])


def damaged_json(folder, tuned):
    content = (folder / "index.json").read_bytes()
    (folder / "index.json").write_bytes(content[: len(content) // 2])


def endless_json(folder, tuned):
    (folder / "index.json").write_text('{"documents": ' + "[" * 100_000)


def numbered_index(folder, tuned):
    index = faiss.IndexIDMap(faiss.IndexFlatL2(tuned.dimension))
    index.add_with_ids(tuned.embed(CHUNKS), np.arange(len(CHUNKS)))
    faiss.write_index(index, str(folder / "index.faiss"))


def hostile_pickle(folder, tuned):
    (folder / "index.pkl").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")


def stale_json(folder, tuned):
    """New index and pickle beside an old index.json, as an upload to split storage leaves them."""
    write_index_folder(folder, tuned, [*CHUNKS, "New."], sidecars=("pkl",))


def stale_pickle(folder, tuned):
    """A chunk that was edited in index.json alone, under the same id."""
    edit_json(folder, lambda content: content["documents"]["chunk-3"].update(page_content="Edited."))


def other_ids(folder, tuned):
    edit_json(folder, lambda content: content["index_to_docstore_id"].update({"60": "chunk-61", "61": "chunk-60"}))


def row_that_is_left_out(folder, tuned):
    edit_json(
        folder, lambda content: content["index_to_docstore_id"].update({"62": content["index_to_docstore_id"].pop("3")})
    )


def fewer_vectors(folder, tuned):
    rewrite_vectors(folder, lambda vectors: vectors[:-1])


def more_vectors(folder, tuned):
    rewrite_vectors(folder, lambda vectors: np.vstack([vectors, vectors[:1]]))


def textless_row(folder, tuned):
    edit_json(folder, lambda content: content["documents"].pop("chunk-3"))


def text_of_another_type(folder, tuned):
    edit_json(folder, lambda content: content["documents"]["chunk-3"].update(page_content=12345))


def wrong_width(folder, tuned):
    rewrite_vectors(folder, lambda vectors: np.hstack([vectors, vectors]))


def other_model(folder, tuned):
    rewrite_vectors(folder, lambda vectors: np.roll(vectors, 1, axis=1))


def mixed_vectors(folder, tuned):
    rewrite_vectors(folder, lambda vectors: np.vstack([vectors[:50], np.roll(vectors[50:], 1, axis=1)]))


def not_finite(folder, tuned):
    rewrite_vectors(folder, lambda vectors: np.vstack([vectors[:-1], np.full((1, vectors.shape[1]), np.nan)]))


def text_not_seen(folder, tuned):
    write_index_folder(folder, tuned, ["logs are rotated every night " * 60] * 5)


@pytest.mark.parametrize(
    ("break_it", "problem", "message"),
    [
        (no_index, "unreadable", "index.faiss: missing"),
        (no_sidecar, "unreadable", "neither index.json nor index.pkl"),
        (damaged_index, "unreadable", "index.faiss: damaged"),
        (damaged_json, "unreadable", "index.json: damaged"),
        (endless_json, "unreadable", "index.json: damaged"),
        (numbered_index, "unreadable", "index.faiss: IndexIDMap does not tell the vector of a row"),
        (hostile_pickle, "unreadable", "names os.system"),
        (stale_json, "unreadable", "one of them is stale"),
        (stale_pickle, "unreadable", "one of them is stale"),
        (other_ids, "unreadable", "one of them is stale"),
        (row_that_is_left_out, "unreadable", "index.json: its rows are not 0 to 61"),
        (fewer_vectors, "unreadable", "has 61 vectors and its sidecar 62 chunks"),
        (more_vectors, "unreadable", "has 63 vectors and its sidecar 62 chunks"),
        (textless_row, "unreadable", "1 of 62 rows have no text (first: 'chunk-3')"),
        (text_of_another_type, "unreadable", "index.json: the text of chunk 'chunk-3' is no text but of type int; del"),
        (wrong_width, "width", "vectors of 64 numbers, the model gives 32"),
        (other_model, "vectors", "none of 62 sampled vectors was made by this model"),
        (mixed_vectors, "mixed", "12 of 62 sampled vectors were made by another model (first: chunk 'chunk-50')"),
        (not_finite, "mixed", "1 of 62 sampled vectors"),
        (text_not_seen, "truncated", "cuts each chunk after 64 wordpieces"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_way_to_be_wrong_is_named(tmp_path, tuned, break_it, problem, message):
    folder = write_index_folder(tmp_path / "handbook", tuned)
    break_it(folder, tuned)
    (finding,) = examine(FaissStore(folder), tuned)
    assert finding.problem == problem
    assert message in finding.message
    assert str(folder) in finding.where


@pytest.mark.parametrize("file", ["index.faiss", "index.json", "index.pkl"])
def test_file_that_may_not_be_read_is_not_called_damaged(tuned, file):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        Path(name).chmod(0o755)
        folder = write_index_folder(Path(name) / "handbook", tuned)
        (folder / file).chmod(0o000)
        with as_nobody():
            (finding,) = examine(FaissStore(folder), tuned)
    assert finding.message == (
        f"{folder / file}: cannot be read (Permission denied); run as a user who may read it, or see to its rights"
    )


def test_healthy_indexes_raise_no_alarm(tmp_path, index_folder, tuned):
    steps.reembed([FaissStore(index_folder)], tuned)
    old = write_index_folder(tmp_path / "old", tuned, sidecars=("pkl",))
    new = write_index_folder(tmp_path / "new", tuned, sidecars=("json",))
    assert [examine(FaissStore(folder), tuned) for folder in (index_folder, old, new)] == [[], [], []]


def test_index_of_another_kind_is_examined_as_well(tmp_path, stock, tuned):
    folder = write_index_folder(tmp_path / "handbook", tuned)
    make_inverted(folder)
    assert examine(FaissStore(folder), tuned) == []
    assert [finding.problem for finding in examine(FaissStore(folder), stock)] == ["vectors"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not set"),
        ("EMBEDDINGS_NAME=models/tuned\n", "no absolute path"),
        ("EMBEDDINGS_NAME=/app/models/other\n", "is not the model examined"),
        ("EMBEDDINGS_NAME={folder}\nEMBEDDINGS_BASE_URL=http://embed:80\n", "overrides EMBEDDINGS_NAME"),
    ],
)
def test_settings_that_load_another_model_are_named(tmp_path, tuned, text, message):
    (tmp_path / ".env").write_text(text.format(folder=tuned.folder))
    (finding,) = examine_settings(EnvironmentFile(tmp_path / ".env"), tuned)
    assert finding.problem == "settings"
    assert message in finding.message
    if "overrides" not in message:  # the name alone would make searches fail while the vectors are another's
        assert "once the vectors are this model's, set EMBEDDINGS_NAME" in finding.message


@pytest.mark.parametrize("line", ["EMBEDDINGS_NAME={}", "export EMBEDDINGS_NAME='{}'  # tuned", 'EMBEDDINGS_NAME="{}"'])
def test_settings_that_load_the_model_raise_no_alarm(tmp_path, tuned, line):
    (tmp_path / ".env").write_text(f"EMBEDDINGS_NAME=/old\n{line.format(tuned.folder)}\n")
    assert examine_settings(EnvironmentFile(tmp_path / ".env"), tuned) == []


def test_settings_that_were_switched_to_a_server_raise_no_alarm_until_they_are_changed(index_folder, tuned, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=/old\n")
    stored = ["--model", str(tuned.folder), "--indexes", str(index_folder), "--env", str(environment.path)]
    switch = ["reembed", *stored, "--served-at", "http://embed:8765#my model"]
    assert CliRunner().invoke(main, switch, catch_exceptions=False).exit_code == 0
    healthy = CliRunner().invoke(main, ["doctor", *stored], catch_exceptions=False)
    assert (healthy.exit_code, healthy.stdout) == (0, "1 source examined, nothing wrong\n")
    environment.path.write_text(environment.path.read_text().replace("embed:8765", "other:80"))
    (finding,) = examine_settings(environment, tuned)
    assert "examine what it serves (--model 'http://other:80#my model'), or remove that line" in finding.message


@pytest.mark.parametrize("line", ["", f"EMBEDDINGS_NAME={HOST_DEFAULT}\n"])
def test_model_that_env_has_by_docsgpts_own_name_raises_no_alarm(tmp_path, tuned, line):
    (tmp_path / ".env").write_text(line)
    environment = EnvironmentFile(tmp_path / ".env")
    assert examine_settings(environment, tuned, called=HOST_DEFAULT) == []
    assert len(examine_settings(environment, tuned, called=str(tuned.folder))) == 1


@pytest.fixture(scope="module")
def upstream(tiny_tuned_folder):
    with serving(TunedEmbeddings(str(tiny_tuned_folder))) as running:
        yield running


def test_vectors_are_compared_with_what_a_server_has(index_folder, upstream, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        f"EMBEDDINGS_BASE_URL=http://embed:80\nEMBEDDINGS_NAME=org/minilm\nEMBEDDINGS_KEY={KEY}\n"
    )
    command = ["doctor", "--model", upstream.name, "--indexes", str(index_folder), "--env", str(tmp_path / ".env")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "sampled vectors was made by this model" in result.output
    assert result.stdout.endswith("1 source examined, 1 thing wrong\n")
    assert f"run: embtune reembed --model {upstream.name}, with the store that doctor was given" in result.output

    monkeypatch.setenv("EMBEDDINGS_KEY", KEY)
    assert CliRunner().invoke(main, ["reembed", *command[1:5]]).exit_code == 0
    healthy = CliRunner().invoke(main, command)
    assert (healthy.exit_code, healthy.output) == (0, "1 source examined, nothing wrong\n")
    assert KEY not in result.output + result.stderr


@pytest.mark.parametrize(
    ("text", "adapted", "message"),
    [
        ("EMBEDDINGS_NAME=org/minilm\n", False, "asks no server; set it to http://embed:80, and"),
        ("EMBEDDINGS_BASE_URL=http://embed:80/v1/\nEMBEDDINGS_NAME=org/minilm\n", False, "leave out /v1"),
        ("EMBEDDINGS_BASE_URL=http://u:p@embed:80\n", False, "EMBEDDINGS_NAME=None: the model examined"),
        ("EMBEDDINGS_BASE_URL=http://embed:80/\nEMBEDDINGS_NAME=org/minilm\n", True, "so that DocsGPT passes it by"),
    ],
)
def test_settings_that_ask_another_server_are_named(tmp_path, text, adapted, message):
    (tmp_path / ".env").write_text(text)
    remote = RemoteModel("http://embed:80", "org/minilm", tmp_path / "adapted" if adapted else None)
    (finding,) = examine_settings_for_server(EnvironmentFile(tmp_path / ".env"), remote)
    assert message in finding.message
    assert "u:p" not in finding.message


def test_settings_that_ask_the_server_raise_no_alarm(tmp_path):
    (tmp_path / ".env").write_text("EMBEDDINGS_BASE_URL=http://embed:80/\nEMBEDDINGS_NAME=org/minilm\n")
    remote = RemoteModel("http://embed:80", "org/minilm", None)
    assert examine_settings_for_server(EnvironmentFile(tmp_path / ".env"), remote) == []


def test_relative_folder_is_no_name_that_docsgpt_knows(tmp_path, tuned, monkeypatch):
    monkeypatch.chdir(tuned.folder.parent)
    (tmp_path / ".env").write_text(f"EMBEDDINGS_NAME={tuned.folder.name}")
    (finding,) = examine_settings(EnvironmentFile(tmp_path / ".env"), tuned, called=tuned.folder.name)
    assert "is no absolute path" in finding.message

"""One line of `.env` switched and taken back; every other line is its owner's."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic_settings import BaseSettings, SettingsConfigDict

from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.errors import DeploymentError

from .conftest import as_nobody

NEW = {"EMBEDDINGS_NAME": "/models/tuned"}


@pytest.fixture
def environment(tmp_path):
    return EnvironmentFile(tmp_path / ".env")


def switch(environment, content):
    environment.path.write_text(content)
    with environment.switched(NEW):
        pass


def test_line_that_is_restored_does_not_run_into_what_was_appended(environment):
    switch(environment, "LLM=x\nEMBEDDINGS_NAME=old")
    with environment.path.open("a") as file:
        file.write("OPENAI_API_KEY=abc\n")
    for _ in range(2):  # the second as after a rollback that stopped half way
        assert environment.take_back()
        assert environment.path.read_text() == "LLM=x\nEMBEDDINGS_NAME=old\nOPENAI_API_KEY=abc\n"


class Host(BaseSettings):
    """How DocsGPT reads its `.env`."""

    model_config = SettingsConfigDict(extra="ignore")
    EMBEDDINGS_NAME: str | None = None


def host_reads(environment):
    return Host(_env_file=environment.path, _env_file_encoding="utf-8").EMBEDDINGS_NAME


@pytest.mark.parametrize(
    "content",
    [
        "",
        "A=1",
        "A=1\n",
        "EMBEDDINGS_NAME=old",
        "A=1\r\nEMBEDDINGS_NAME='old'\r\nB=2",
        "EMBEDDINGS_NAME=a\nX=1\nEMBEDDINGS_NAME=b",
        "\ufeffEMBEDDINGS_NAME=old\nA=1\n",
        "\n\n  export EMBEDDINGS_NAME = old # ours\n\nB=2",
        "EMBEDDINGS_NAME=a\nembeddings_name=b\nA=1\n",
        "EMBEDDINGS_NAME=a\nembeddings_name=b\nEMBEDDINGS_NAME=c\n",
        "EMBEDDINGS_NAME=a\nEMBEDDINGS_NAME\n",
        "MODELS=/models\nEMBEDDINGS_NAME=${MODELS}/${NO_SUCH:-old}\n",
        'EMBEDDINGS_NAME=old\nPROMPT="Say:\nEMBEDDINGS_NAME=not this\n"\n',
        "PROMPT='Say:\nEMBEDDINGS_NAME=not this\n'",
        "EMBEDDINGS_NAME='it\\'s \"old\"' # ours\n",
    ],
)
def test_host_reads_the_same_and_what_was_not_changed_since_comes_back_to_the_byte(environment, content):
    environment.path.write_bytes(content.encode())
    before = host_reads(environment)
    assert environment.get("EMBEDDINGS_NAME") == before
    with environment.switched(NEW):
        pass
    assert host_reads(environment) == environment.get_switched("EMBEDDINGS_NAME") == "/models/tuned"
    assert environment.get_replaced("EMBEDDINGS_NAME", "default") == (before or "default")
    for _ in range(2):  # the second as after a rollback that stopped half way
        assert environment.take_back()
        assert environment.path.read_bytes() == content.encode()
        assert environment.get_switched("EMBEDDINGS_NAME") is None


def test_name_within_a_value_is_the_files_before_it_is_the_process_s(environment, monkeypatch):
    monkeypatch.setenv("MODELS", "/elsewhere")
    environment.path.write_text("MODELS=/models\nEMBEDDINGS_NAME=${MODELS}/old\n")
    assert environment.get("EMBEDDINGS_NAME") == host_reads(environment) == "/models/old"


def test_stores_of_an_earlier_switch_are_not_those_of_the_last(environment):
    switch(environment, "EMBEDDINGS_NAME=old\n")
    environment.keep_stores(["qdrant"])
    environment.keep_stores(["faiss"])
    assert environment.switched_stores() == ["faiss", "qdrant"]
    with environment.switched({"EMBEDDINGS_NAME": "/models/third"}):
        pass
    environment.keep_stores(["pgvector"])
    assert environment.switched_stores() == ["pgvector"]


def test_quote_that_is_left_open_is_named_and_nothing_written(environment):
    environment.path.write_text("PROMPT='Say it\n")
    with pytest.raises(DeploymentError, match=r"would not read EMBEDDINGS_NAME .* a quote before it is left open"):
        environment.switched({"EMBEDDINGS_NAME": "/srv/our models"}).__enter__()
    assert environment.path.read_text() == "PROMPT='Say it\n"


def test_lines_that_an_earlier_version_took_together_come_back(environment):
    environment.path.write_text("EMBEDDINGS_NAME=/models/tuned\nX=1\n")
    record = {
        "replaced": {"EMBEDDINGS_NAME": ["EMBEDDINGS_NAME=a\n", "  EMBEDDINGS_NAME=b\n"]},
        "written": {"EMBEDDINGS_NAME": "EMBEDDINGS_NAME=/models/tuned\n"},
        "open_end": False,
    }
    environment.path.with_name(".env.embtune.json").write_text(json.dumps(record))
    for _ in range(2):
        assert environment.take_back()
        assert environment.path.read_text() == "EMBEDDINGS_NAME=a\n  EMBEDDINGS_NAME=b\nX=1\n"


@pytest.mark.parametrize("content", ["LLM=x", "LLM=x\n"])
def test_two_settings_that_were_new_leave_no_trace(environment, content):
    environment.path.write_text(content)
    with environment.switched({"EMBEDDINGS_BASE_URL": "http://embed:80", **NEW}):
        pass
    environment.take_back()
    assert environment.path.read_text() == content


@pytest.mark.parametrize("record", ["{", "[]", "{}", "7"])
def test_damaged_record_is_named(environment, record):
    switch(environment, "EMBEDDINGS_NAME=old\n")
    environment.path.with_name(".env.embtune.json").write_text(record)
    with pytest.raises(DeploymentError, match=r"\.env\.embtune\.json: damaged .*delete it"):
        environment.take_back()


@pytest.mark.parametrize("mode", [None, 0o600, 0o640])
def test_who_may_read_the_file_stays_who_may_read_it_and_the_record(environment, tmp_path, mode):
    if mode:
        environment.path.write_text("EMBEDDINGS_NAME=old\n")
        environment.path.chmod(mode)

    def modes():
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    with environment.switched(NEW):
        pass
    expected = {".env": mode or 0o600, ".env.embtune.json": mode or 0o600}
    assert modes() == expected
    environment.keep_stores(["faiss"])
    environment.take_back()
    assert modes() == expected


def test_mistyped_folder_is_not_made(tmp_path):
    environment = EnvironmentFile(tmp_path / "DocsGTP" / ".env")
    with pytest.raises(DeploymentError, match="DocsGTP: no such folder; give --env"), environment.switched(NEW):
        pass
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_mounted_by_itself_is_refused(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    environment = EnvironmentFile(folder / ".env")
    for path in (folder / "mounted", environment.path):
        path.touch()
    environment.require_replaceable(NEW)
    if subprocess.run(["mount", "--bind", folder / "mounted", environment.path], capture_output=True).returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        with pytest.raises(DeploymentError, match="is a mount point"):
            environment.require_replaceable(NEW)
    finally:
        subprocess.run(["umount", environment.path], check=True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/models/it's", r"/models/it's.*cannot stand in EMBEDDINGS_NAME; put the model elsewhere"),
        ("http://user:s3cret'pw@embed:8765", r"http://embed:8765.*write such a sign of a URL as %27"),
    ],
)
def test_setting_that_the_file_cannot_hold_is_named_before_the_work(environment, value, said):
    with pytest.raises(DeploymentError, match=said) as refused:
        environment.require_replaceable({"EMBEDDINGS_NAME": value})
    assert "s3cret" not in str(refused.value)


def test_folder_that_cannot_be_written_to_is_named():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        folder = Path(name)
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(DeploymentError, match=f"{folder} cannot be written to.* leave out --env"):
            EnvironmentFile(folder / ".env").require_replaceable(NEW)
        folder.chmod(0o755)


def test_link_stays_a_link(environment, tmp_path):
    secrets = tmp_path / "secrets.env"
    environment.path.symlink_to(secrets)
    switch(environment, "EMBEDDINGS_NAME=old\n")
    assert environment.path.is_symlink()
    assert secrets.read_text() == "EMBEDDINGS_NAME=/models/tuned\n"
    assert EnvironmentFile(secrets).get_switched("EMBEDDINGS_NAME") == "/models/tuned"
    environment.take_back()
    assert secrets.read_text() == "EMBEDDINGS_NAME=old\n"
    environment.forget()
    assert sorted(tmp_path.iterdir()) == [environment.path, secrets]


def test_record_that_lies_beside_a_link_is_found(environment, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    environment.path.symlink_to(folder / ".env")
    switch(environment, "EMBEDDINGS_NAME=old\n")
    shutil.move(folder / ".env.embtune.json", tmp_path)  # where it was once written
    environment = EnvironmentFile(environment.path)
    assert environment.take_back()
    assert environment.get("EMBEDDINGS_NAME") == "old"
    environment.forget()
    assert sorted(tmp_path.rglob("*")) == [environment.path, folder, folder / ".env"]


def test_a_key_on_the_last_line_is_not_copied_into_the_record(environment, tmp_path):
    switch(environment, "EMBEDDINGS_NAME=old\nAPI_KEY=sk-very-secret")
    assert "sk-very-secret" not in (tmp_path / ".env.embtune.json").read_text()
    environment.take_back()
    assert environment.path.read_bytes() == b"EMBEDDINGS_NAME=old\nAPI_KEY=sk-very-secret"


@pytest.mark.parametrize("folder", ["/srv/our models/tuned", "/srv/tuned #2", "/srv/$HOME/tuned", '/srv/"a"'])
def test_host_reads_a_path_as_it_is(environment, folder):
    environment.path.write_bytes(b"HOME=/root\n")
    with environment.switched({"EMBEDDINGS_NAME": folder}):
        pass
    assert dotenv_values(environment.path)["EMBEDDINGS_NAME"] == environment.get("EMBEDDINGS_NAME") == folder
    assert environment.take_back()
    assert environment.path.read_bytes() == b"HOME=/root\n"


@pytest.mark.parametrize("folder", ["/srv/it's", "/srv/${HOME}/tuned", "C:\\tuned"])
def test_path_that_no_quotes_can_hold_is_refused(environment, folder):
    with pytest.raises(DeploymentError, match="cannot stand in EMBEDDINGS_NAME; put the model elsewhere"):
        environment.switched({"EMBEDDINGS_NAME": folder}).__enter__()
    assert not environment.path.exists()

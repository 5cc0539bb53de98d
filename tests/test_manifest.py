import json
import shutil

import pytest

from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.manifest import MANIFEST, read_manifest, write_manifest


def test_what_another_version_wrote_is_kept_to_the_byte(tmp_path):
    fields = {
        "schema": 1,
        "fingerprint": "f" * 64,
        "dimension": 32,
        "of a later version": {"größer": [1, 2.5, None]},
        "base": {"name": "tiny"},  # without the fingerprint that it has today
    }
    written = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    (tmp_path / MANIFEST).write_text(written, encoding="utf-8")
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / MANIFEST).read_text(encoding="utf-8") == written


@pytest.mark.parametrize("content", ["", "[1]", '{"schema": 1}', "[" * 100_000], ids=len)
def test_what_is_no_manifest_is_named_in_one_line(content, tmp_path):
    (tmp_path / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ModelFolderError, match=r"embtune\.json: broken \("):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("fingerprint", 7, "fingerprint must be a string, and is 7"),
        ("dimension", "32", 'dimension must be a whole number, and is "32"'),
        ("server", [], "server must be an object, and is []"),
        ("serving", None, "serving must be an object, and is null"),
        ("serving", {"graphs": {"onnx": "model.onnx"}}, 'serving.graphs.onnx must be an object, and is "model.onnx"'),
        ("keywords", {"weight": "much"}, 'keywords.weight must be a number, and is "much"'),
        ("data", {"seen_queries": ["a", 1]}, "data.seen_queries[1] must be a string, and is 1"),
    ],
)
def test_field_of_another_type_is_named_and_the_model_not_loaded(field, value, said, tiny_tuned_folder, tmp_path):
    folder = shutil.copytree(tiny_tuned_folder, tmp_path / "tuned")
    write_manifest(folder, {**read_manifest(folder), field: value})
    with pytest.raises(ModelFolderError) as refused:
        TunedEmbeddings(str(folder))
    assert str(refused.value) == f"{folder / MANIFEST}: broken ({said}); train or copy the folder again"

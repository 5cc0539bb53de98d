import json

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import load_dataset
from docsgpt_embtune.errors import ModelFolderError
from docsgpt_embtune.sources.offline_questions import questions_from_generator, questions_from_headings

from ..conftest import TEXTS

CORPUS = {
    "markdown": "\n## Resetting your password ##\n\nOpen the account page.",
    "underlined": "Backups at night\n================\n\nThey run.",
    "lines around it": "====\nRestoring a backup\n====\n\nStop the server.",
    "sentence": "Logs are rotated every night. They are kept.\n\n## Reading the logs\n\nOpen them.",
    "without spaces": "备份每天晚上运行。副本保存七天。",
    "word": "Contents",
    "again": "# Resetting your password\n\nAnother page.",
}


def asked_for(corpus):
    made = questions_from_headings(corpus)
    return {made.queries[query_id]: ids for query_id, ids in made.relevant_docs.items()}


def test_headings_come_before_first_sentences_and_shared_ones_have_several_answers():
    assert asked_for(CORPUS) == {
        "Resetting your password": ("markdown", "again"),
        "Backups at night": ("underlined",),
        "Restoring a backup": ("lines around it",),
        "Logs are rotated every night": ("sentence",),
        "备份每天晚上运行": ("without spaces",),
    }


def test_a_heading_further_down_asks_for_no_chunk():
    assert asked_for({"c": "cbrt\nReturn the cube-root of an array.\n\nSee Also\n--------\nsqrt"}) == {
        "Return the cube-root of an array": ("c",)
    }


@pytest.mark.parametrize("word", ["Backups", "Übersicht", "Généralités", "Обзор", "`backup.run`", "备份", "Backup: x"])
def test_a_single_word_is_no_question(word):
    assert asked_for({"c": f"# {word}"}) == {}
    assert asked_for({"c": f"# {word}\n\n- too short\n- Copies are kept for a week.\n"}) == {
        "Copies are kept for a week": ("c",)
    }


@pytest.mark.parametrize(("chunks", "questions"), [(3, 1), (4, 4)])
def test_what_many_chunks_open_with_asks_for_none_of_them(chunks, questions):
    same_in_all = "# See also\n\nRead the guide before you begin.\n"
    corpus = {f"c{n}": f"{same_in_all}Page {n} says how disk {n} is mounted." for n in range(chunks)}
    assert len(asked_for(corpus)) == questions
    copies = {f"copy of {doc_id}": text for doc_id, text in corpus.items()}
    assert len(asked_for(corpus | copies)) == questions
    assert sorted(doc_id for doc_ids in asked_for(corpus | copies).values() for doc_id in doc_ids) == sorted(
        corpus | copies
    )


def test_code_and_comments_are_no_sentences():
    comment = "<!-- YAML\nadded in a later version: yes\n-->"
    code = "```js\nimport rename from files as it is;\n```"
    assert asked_for({"c": f"{comment}\n# `rename`\n\n{code}\n\nIt moves a file elsewhere."}) == {
        "It moves a file elsewhere": ("c",)
    }


def test_the_file_and_the_output_say_that_it_is_weaker(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    out = tmp_path / "train.json"
    result = CliRunner().invoke(
        main, ["synthesize", "--offline", "--corpus", str(tmp_path / "corpus.json"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "weaker than questions of people" in result.output
    assert "chunks that gave no question: 1 of 7" in result.output
    assert "weaker" in json.loads(out.read_text())["made_by"]
    assert all(query_id.startswith("offline-") for query_id in load_dataset(out).queries)


def test_a_query_generator_is_asked_for_every_chunk(tmp_path, tiny_base_folder):
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_base_folder))
    tokenizer.save_pretrained(tmp_path)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    corpus = {str(number): text for number, text in enumerate(TEXTS)}
    made = questions_from_generator(corpus, tmp_path, questions_per_chunk=2)
    assert {doc_id for ids in made.relevant_docs.values() for doc_id in ids} == set(corpus)
    assert made == questions_from_generator(corpus, tmp_path, questions_per_chunk=2)
    with pytest.raises(ModelFolderError, match="no sequence-to-sequence model"):
        questions_from_generator(corpus, tiny_base_folder)
    with pytest.raises(ModelFolderError, match=r"no config\.json in it"):
        questions_from_generator(corpus, tmp_path / "nowhere")


def test_a_generators_own_code_is_not_run_even_if_the_terminal_would_say_yes(tmp_path, monkeypatch):
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Words", None]}}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(own))
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(ModelFolderError, match="no sequence-to-sequence model"):
        questions_from_generator({"c": "Logs are rotated every night."}, tmp_path)

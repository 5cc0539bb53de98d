import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from click.testing import CliRunner

from docsgpt_embtune.cli import main
from docsgpt_embtune.data.dataset import (
    RetrievalDataset,
    judge_first_copies,
    load_dataset,
    query_digest,
    save_dataset,
)
from docsgpt_embtune.embeddings import TunedEmbeddings
from docsgpt_embtune.errors import EvaluationError
from docsgpt_embtune.evaluation.comparison import Side, compare
from docsgpt_embtune.evaluation.retrieval_check import check_retrieval
from docsgpt_embtune.evaluation.summary import (
    default_k_in_words,
    evidence_in_words,
    k_in_words,
    leads_in_words,
    untuned_in_words,
    verdict_in_words,
    warnings,
)
from docsgpt_embtune.manifest import read_manifest, write_manifest
from docsgpt_embtune.model_writing import write_model_folder
from tests.conftest import TEXTS
from tests.evaluation.keyword_embeddings import WORDS, KeywordEmbeddings, word_dataset

HALF, WHOLE = Side(KeywordEmbeddings(WORDS[:10])), Side(KeywordEmbeddings(WORDS))


@pytest.fixture
def text_dataset() -> RetrievalDataset:
    return RetrievalDataset(
        queries={str(i): " ".join(text.split()[:5]) for i, text in enumerate(TEXTS)},
        corpus={str(i): text for i, text in enumerate(TEXTS)},
        relevant_docs={str(i): (str(i),) for i in range(len(TEXTS))},
    )


@pytest.fixture
def data_file(text_dataset, tmp_path):
    path = tmp_path / "test.json"
    save_dataset(text_dataset, path)
    return path


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def scaled_copy(folder, out):
    """The same model without Normalize, so that its vectors are as long as they come."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(SentenceTransformer(str(folder), device="cpu"))[:2], device="cpu").save(str(out))
    return out


def run(*arguments: object):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_what_is_told_of_private_questions_is_private_too(mode, tiny_tuned_folder, data_file, tmp_path):
    data_file.chmod(mode)
    written = [tmp_path / "check.html", tmp_path / "check.json"]
    models = ("--baseline", tiny_tuned_folder, "--tuned", tiny_tuned_folder)
    run(*models, "--data", data_file, "--report", written[0], "--json", written[1])
    assert [path.stat().st_mode & 0o777 for path in written] == [mode, mode]


def test_a_model_that_knows_the_words_beats_one_that_knows_half():
    comparison = compare(HALF, WHOLE, word_dataset())
    assert comparison.verdict == "improved"
    assert comparison.scores["tuned"]["recall@1"] == 1.0
    assert comparison.scores["bm25"]["recall@1"] == 1.0
    assert comparison.scores["baseline"]["recall@1"] == pytest.approx(11 / 20)  # one of the unknown ten is first
    assert comparison.k_for_recall[0.8] == {"baseline": 6, "tuned": 1, "bm25": 1, "hybrid": 1}
    assert k_in_words(comparison).endswith("the baseline needs K = 6, the tuned model K = 1.")
    assert comparison.headline_share == 0.8
    easy = replace(comparison, k_for_recall={0.8: {"baseline": 1, "tuned": 1}, 0.9: {"baseline": 3, "tuned": 1}})
    assert k_in_words(easy) == (
        "To find the answer for 90% of the questions, the baseline needs K = 3, the tuned model K = 1."
    )
    beyond = replace(comparison, k_for_recall={0.8: {"baseline": None, "tuned": 1}})
    assert k_in_words(beyond).endswith("the baseline needs K > 100, the tuned model K = 1.")
    assert default_k_in_words(comparison).endswith("for 100% of the questions, with the baseline for 60%.")
    same = compare(WHOLE, WHOLE, word_dataset())
    assert default_k_in_words(same).endswith("with the baseline for 100%.")
    swapped = compare(WHOLE, HALF, word_dataset())
    assert swapped.verdict == "worse"


def test_the_headline_is_about_more_questions_where_the_baseline_answers_most_at_once():
    comparison = compare(Side(KeywordEmbeddings(WORDS[:16])), WHOLE, word_dataset())  # 17 of 20 come first
    assert comparison.headline_share == 0.9
    assert comparison.k_for_recall[0.9] == {"baseline": 2, "tuned": 1, "bm25": 1, "hybrid": 1}


def test_the_seed_draws_the_intervals():
    first, again, other = (compare(HALF, WHOLE, word_dataset(), seed=seed).judgment for seed in (1, 1, 2))
    assert first == again != other


def test_scores_by_cosine_are_of_the_ranking_by_cosine():
    long = RetrievalDataset({"q": "log"}, {"near": "log disk", "long": "log log log log"}, {"q": ("long",)})
    side = Side(KeywordEmbeddings(["log", "disk"]))
    comparison = compare(side, side, long)
    assert comparison.scores["tuned"]["recall@1"] == 0.0
    assert comparison.cosine_scores["tuned"]["recall@1"] == 1.0
    assert comparison.cosine_disagrees == ["baseline", "tuned"]


def test_chunks_that_two_models_read_alike_are_embedded_once(tmp_path):
    model = KeywordEmbeddings(WORDS)
    plain, adapted = (Side(model, of_queries, tmp_path, document_fingerprint="cc") for of_queries in ("aa", "bb"))
    compare(plain, adapted, word_dataset())
    assert len(model.embedded) == 20


def test_gain_of_three_questions_at_the_default_k_could_be_chance():
    three = word_dataset().subset(f"q-{word}" for word in WORDS[13:16])
    comparison = compare(HALF, WHOLE, three)
    assert comparison.judgment.differences["hit@2"].low > 0
    assert default_k_in_words(comparison).endswith(", which could be chance.")


def test_query_ranks_tell_where_the_good_and_the_bad_chunk_stand():
    comparison = compare(HALF, WHOLE, word_dataset())
    first, *_, last = comparison.query_ranks()
    assert first["query_id"] == "q-alpha"
    assert (first["baseline_rank"], first["tuned_rank"]) == (1, 1)
    # None of the last ten words is known: their chunks tie with each other at distance 0, in corpus order.
    assert (last["baseline_rank"], last["baseline_bad_rank"]) == (10, 11)


def test_a_copy_of_the_good_chunk_is_as_good():
    dataset = word_dataset()
    copied = replace(dataset, corpus={**{f"copy of {w}": text for w, text in dataset.corpus.items()}, **dataset.corpus})
    comparison = compare(HALF, WHOLE, copied)
    assert comparison.scores["tuned"]["recall@1"] == comparison.scores["bm25"]["recall@1"] == 1.0
    first = comparison.query_ranks()[0]
    assert (first["tuned_rank"], first["tuned_bad_rank"]) == (1, 3)  # both copies stand before the bad one


def test_questions_about_copies_of_one_chunk_are_one_piece_of_evidence():
    dataset = word_dataset()
    copied = replace(
        dataset,
        queries={"first": "where is alpha", "second": "what is alpha"},
        corpus={**dataset.corpus, "copy": dataset.corpus["alpha"]},
        relevant_docs={"first": ("alpha", "copy"), "second": ("copy",)},
        irrelevant_docs={},
    )
    judged = judge_first_copies(copied)
    assert judged.relevant_docs == {"first": ("alpha",), "second": ("alpha",)}
    assert compare(HALF, WHOLE, copied).judgment.groups == 1


def test_bm25_is_left_out_of_a_large_corpus_and_that_is_said(monkeypatch):
    monkeypatch.setattr("docsgpt_embtune.evaluation.comparison.BM25_CHUNKS", 19)
    large = compare(HALF, WHOLE, word_dataset())
    assert untuned_in_words(large).startswith("BM25 is not beside them")
    assert "and there are 20." in untuned_in_words(large)
    assert large.to_json()["bm25"] is large.to_json()["hybrid"] is None
    assert large.k_for_recall[0.8].keys() == {"baseline", "tuned"}
    monkeypatch.setattr("docsgpt_embtune.evaluation.comparison.BM25_CHUNKS", 20)
    assert untuned_in_words(compare(HALF, WHOLE, word_dataset())).startswith("hybrid: ")


@pytest.mark.parametrize(
    ("known", "warning"),
    [
        pytest.param(10, "finds more than the tuned model does.", id="ten words in twenty"),
        pytest.param(17, "finds no less than the tuned model does: its lead could be chance.", id="all but three"),
        pytest.param(20, "", id="all words"),
    ],
)
def test_a_lead_of_bm25_is_told_from_chance(known, warning):
    comparison = compare(HALF, Side(KeywordEmbeddings(WORDS[:known])), word_dataset())
    of_bm25 = "BM25, a search without any model, "
    leads = [lead.removeprefix(of_bm25) for lead in leads_in_words(comparison) if lead.startswith(of_bm25)]
    assert leads == ([warning] if warning else [])


def test_hybrid_search_that_finds_more_is_told():
    """BM25 knows each word: fused with the baseline that knows half of them, it beats a model that knows five."""
    comparison = compare(HALF, Side(KeywordEmbeddings(WORDS[:5])), word_dataset())
    assert comparison.untuned_leads == ("bm25", "hybrid")
    lead = "The baseline and BM25 in one, a hybrid search, finds more than the tuned model does."
    assert lead in leads_in_words(comparison)


def test_hybrid_search_takes_no_tuning():
    found = [compare(HALF, tuned, word_dataset()).rankings["hybrid"].nearest for tuned in (HALF, WHOLE)]
    assert (found[0] == found[1]).all()


def test_lead_of_bm25_in_many_wordings_of_three_questions_could_be_chance():
    unknown = {f"q-{word}-{n}": f"where is {word} {n}" for word in WORDS[13:16] for n in range(10)}
    good = {query_id: (query_id.split("-")[1],) for query_id in unknown}
    comparison = compare(HALF, HALF, RetrievalDataset(unknown, word_dataset().corpus, good))
    assert comparison.scores["bm25"]["hit@1"] > comparison.scores["tuned"]["hit@1"] + 0.5
    assert comparison.untuned_leads == ()


def test_wordings_of_one_question_count_once():
    dataset = word_dataset()
    wordings = {f"{query_id}-{n}": f"{text} {n}" for query_id, text in dataset.queries.items() for n in range(5)}
    repeated = RetrievalDataset(
        queries=wordings,
        corpus=dataset.corpus,
        relevant_docs={query_id: dataset.relevant_docs[query_id[:-2]] for query_id in wordings},
    )
    once, often = compare(HALF, WHOLE, dataset), compare(HALF, WHOLE, repeated)
    assert (often.judgment.queries, often.judgment.groups) == (100, 20)
    assert often.to_json()["dataset"]["groups"] == 20
    assert often.judgment.differences["recall@1"] == once.judgment.differences["recall@1"]
    assert evidence_in_words(often) == "100 questions about 20 separate answers"
    assert evidence_in_words(once) == "20 questions"


def test_the_command_writes_the_designs_json_and_says_no(tiny_base_folder, tiny_tuned_folder, data_file, tmp_path):
    out = tmp_path / "check.json"
    result = run("--baseline", tiny_base_folder, "--tuned", tiny_tuned_folder, "--data", data_file, "--json", out)
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("Not enough evidence")
    assert max(map(len, result.stdout.splitlines()[:3])) <= 80
    content = json.loads(out.read_text())
    assert content["verdict"] == "not enough evidence"
    assert content["proven"] is False
    assert content["dataset"]["queries"] == len(content["queries"]) == 5
    for side in ("baseline", "tuned", "bm25", "hybrid"):
        assert {"recall@1", "hit@20", "mrr@10", "ndcg@10"} <= content[side].keys()
    assert content["difference"]["recall@1"].keys() == {"mean", "low", "high", "p"}
    assert content["k_for_recall"]["0.80"].keys() == {"baseline", "tuned", "bm25", "hybrid"}
    assert {"query_id", "baseline_rank", "tuned_rank"} <= content["queries"][0].keys()


def test_call_that_is_wrong_names_the_argument_and_a_right_one_prints_the_report(
    tiny_base_folder, tiny_tuned_folder, text_dataset, tmp_path
):
    models = (tiny_base_folder, tiny_tuned_folder)
    with pytest.raises(TypeError, match=r"dataset must be a RetrievalDataset, and is 'test.csv'"):
        check_retrieval(*models, "test.csv")
    with pytest.raises(TypeError, match="faq must be"):
        check_retrieval(*models, text_dataset, guards={"faq": tmp_path})
    with pytest.raises(ValueError, match="store must be faiss or langchain; got 'milvus'"):
        check_retrieval(*models, text_dataset, store="milvus")
    report = check_retrieval(*models, text_dataset, cache=str(tmp_path))
    assert "recall@1" in str(report)


def test_stores_and_a_tuned_baseline_give_the_same_answer(tiny_base_folder, tiny_tuned_folder, text_dataset):
    forward = check_retrieval(tiny_base_folder, tiny_tuned_folder, text_dataset)
    langchain = check_retrieval(tiny_base_folder, tiny_tuned_folder, text_dataset, store="langchain")
    assert forward.main.to_json() == langchain.main.to_json()
    backward = check_retrieval(tiny_tuned_folder, tiny_base_folder, text_dataset)
    assert backward.main.scores["baseline"] == forward.main.scores["tuned"]


def test_questions_that_the_model_learned_from_do_not_count(tiny_base_folder, text_dataset, tmp_path):
    from sentence_transformers import SentenceTransformer

    def tuned_on(*query_ids: str):
        seen = [query_digest(text_dataset.queries[query_id].upper() + "  ") for query_id in query_ids]
        folder = tmp_path / f"tuned-{len(query_ids)}"
        model = SentenceTransformer(str(tiny_base_folder), device="cpu")
        write_model_folder(model, tiny_base_folder, folder, {"data": {"seen_queries": seen}})
        return folder

    report = check_retrieval(tiny_base_folder, tuned_on("0", "3"), text_dataset)
    assert list(report.main.dataset.queries) == ["1", "2", "4"]
    assert report.to_json()["dataset"]["seen_queries_left_out"] == 2
    with pytest.raises(EvaluationError, match="learned from the 5 questions given"):
        check_retrieval(tiny_base_folder, tuned_on(*text_dataset.queries), text_dataset)
    report = check_retrieval(tuned_on("1"), tuned_on("0", "3"), text_dataset)
    assert list(report.main.dataset.queries) == ["2", "4"]  # new to both


def test_tuned_folder_that_lost_its_manifest_is_told(tiny_base_folder, tiny_tuned_folder, text_dataset, tmp_path):
    (shutil.copytree(tiny_tuned_folder, tmp_path / "lost") / "embtune.json").unlink()
    said = [
        "\n".join(warnings(check_retrieval(tiny_base_folder, tuned, text_dataset)))
        for tuned in (tiny_tuned_folder, tmp_path / "lost")
    ]
    assert ["has no embtune.json: questions that it learned from are not known" in each for each in said] == [
        False,
        True,
    ]


def test_what_serves_is_what_is_checked(tiny_base_folder, tiny_exported_folder, tmp_path, text_dataset):
    folder = shutil.copytree(tiny_exported_folder, tmp_path / "exported")
    manifest = read_manifest(folder)
    manifest["serving"]["engine"] = "onnx-int8"
    write_manifest(folder, manifest)
    served = TunedEmbeddings(str(folder))
    assert served.engine in ("onnx-int8", "onnx")  # by what the processor multiplies in
    assert check_retrieval(tiny_base_folder, folder, text_dataset).tuned.load().engine == served.engine


def test_a_guard_has_a_verdict_of_its_own(tiny_base_folder, tiny_tuned_folder, data_file, tmp_path):
    guard, corpus = tmp_path / "guard.json", tmp_path / "corpus.json"
    content = json.loads(data_file.read_text())
    corpus.write_text(json.dumps(content.pop("corpus")))
    guard.write_text(json.dumps(content))
    out = tmp_path / "check.json"
    both = ("--guard", data_file, "--guard", f"{guard},{corpus}", "--json", out)
    result = run("--baseline", tiny_base_folder, "--tuned", tiny_tuned_folder, "--data", data_file, *both)
    assert result.exit_code == 1, result.output
    assert f"guard {data_file}: not enough evidence (5 questions)" in " ".join(result.stdout.split())
    guards = json.loads(out.read_text())["guards"]
    assert [found["verdict"] for found in guards.values()] == ["not enough evidence"] * 2
    again = ("--data", guard, "--corpus", corpus, "--guard", guard)
    result = run("--baseline", tiny_base_folder, "--tuned", tiny_tuned_folder, *again)
    assert f"give the chunks' own file as --guard {guard},CORPUS" in " ".join(result.stderr.split())


def test_files_are_written_before_the_text_which_nothing_keeps_back(
    tiny_base_folder, tiny_tuned_folder, data_file, tmp_path, monkeypatch
):
    given = ("--baseline", tiny_base_folder, "--tuned", tiny_tuned_folder, "--data", data_file)
    out, seen = tmp_path / "check.json", []
    monkeypatch.setattr("docsgpt_embtune.evaluation.summary.summary", lambda report: seen.append(out.exists()) or "")
    assert run(*given, "--json", out).exit_code == 1
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("docsgpt_embtune.cli.check.write_text_atomically", full)
    result = run(*given, "--json", out)
    assert (seen, result.exit_code) == ([True], 2)
    assert result.stdout.startswith("Not enough evidence")


def test_models_that_find_the_same_are_told_so(tiny_tuned_folder, text_dataset):
    report = check_retrieval(tiny_tuned_folder, tiny_tuned_folder, text_dataset)
    assert verdict_in_words(report).startswith("Not enough evidence: both models find the same.")
    assert "could be chance" not in verdict_in_words(report) + default_k_in_words(report.main)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tuned": "nowhere"}, "nowhere: no such folder"),
        (
            {"--tuned": "http://u:hunter2@localhost:1#m"},
            "--tuned http://localhost:1#m: is a server's address; give the",
        ),
        ({"--baseline": "./nowhere"}, "./nowhere: no such folder"),
        ({"--data": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"--k": "2,3"}, r"the verdict needs the cutoffs 1 and 10; add [1, 10] to --k"),
        ({"--k": "1,10,1000"}, "cutoffs must be 1 to 100, got [1, 10, 1000]"),
        ({"--guard": "nowhere.json"}, "nowhere.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny_base_folder, tiny_tuned_folder, data_file, change, message):
    options = {"--baseline": tiny_base_folder, "--tuned": tiny_tuned_folder, "--data": data_file, **change}
    result = run(*(part for pair in options.items() for part in pair))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_models_that_are_not_unit_norm_are_told_loudly(tiny_base_folder, data_file, tmp_path):
    longer = scaled_copy(tiny_base_folder, tmp_path / "longer")
    result = run("--baseline", tiny_base_folder, "--tuned", longer, "--data", data_file)
    assert "WARNING: THE VECTORS OF TUNED ARE NOT UNIT-NORM" in result.stdout
    assert "tuned: nDCG@10" in " ".join(result.stdout.split())
    result = run("--baseline", tiny_base_folder, "--tuned", tiny_base_folder, "--data", data_file)
    assert "UNIT-NORM" not in result.stdout


def test_prompts_that_docsgpt_never_uses_are_told(tiny_base_folder, tiny_tuned_folder, data_file, tmp_path):
    prompted = shutil.copytree(tiny_base_folder, tmp_path / "prompted")
    settings = prompted / "config_sentence_transformers.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"prompts": {"query": "query: ", "document": ""}}))
    out = tmp_path / "check.json"
    result = run("--baseline", prompted, "--tuned", tiny_tuned_folder, "--data", data_file, "--json", out)
    said = " ".join(result.stdout.split())
    assert "WARNING: The baseline model was made for prompts (query), which DocsGPT does not put" in said
    found = json.loads(out.read_text())
    assert found["unused_prompts"] == {"baseline": ["query"], "tuned": []}
    plain = check_retrieval(tiny_base_folder, tiny_tuned_folder, load_dataset(data_file)).main
    assert found["baseline"] == plain.scores["baseline"]


WITHOUT_A_PACKAGE = textwrap.dedent(
    """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == sys.argv[1]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())
    from docsgpt_embtune.cli import main
    main(sys.argv[2:])
    """
)


@pytest.mark.parametrize("package", ["ir_measures", "scipy", "jinja2"])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(package):
    options = ("check", "--baseline", "x", "--tuned", "x", "--data", "x.json")
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_PACKAGE, package, *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: No module named '{package}'; run: pip install 'docsgpt-embtune[train]'\n"


def test_a_missing_module_of_our_own_is_no_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "docsgpt_embtune.evaluation.retrieval_check", None)
    result = run("--baseline", "x", "--tuned", "x", "--data", "x.json")
    assert isinstance(result.exception, ModuleNotFoundError)


def test_the_script_reports_errors_as_the_command_does():
    from docsgpt_embtune.cli.check import check

    result = CliRunner().invoke(check, ["--baseline", "./x", "--tuned", "./x", "--data", "nowhere.json"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: nowhere.json: cannot be read (No such file or directory); check the path\n",
    )

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from docsgpt_embtune.data.dataset import RetrievalDataset
from docsgpt_embtune.evaluation.comparison import Side, compare
from docsgpt_embtune.evaluation.report import changed_questions, render_report, write_report
from docsgpt_embtune.evaluation.retrieval_check import CheckedModel, CheckReport
from docsgpt_embtune.evaluation.summary import summary, tokens_in_words
from docsgpt_embtune.evaluation.truncation import TruncationAudit
from tests.evaluation.keyword_embeddings import WORDS, KeywordEmbeddings, word_dataset

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")

AUDIT = TruncationAudit(
    max_seq_length=256,
    possible_length=512,
    chunks=20,
    chunks_cut=3,
    wordpieces=6000,
    wordpieces_seen=4500,
    good_chunks=20,
    good_chunks_cut=3,
    longest=900,
)
HOSTILE = "<script>document.title = 'owned'</script><b>alpha</b> & \"co\""


def make_report(dataset: RetrievalDataset, baseline=WORDS[:10], tuned=WORDS[4:]) -> CheckReport:
    """A tuned model that learns ten words and forgets four, whose chunks then tie in corpus order."""
    sides = Side(KeywordEmbeddings(baseline)), Side(KeywordEmbeddings(tuned))
    return CheckReport(
        baseline=CheckedModel("base", Path("base"), "a" * 64),
        tuned=CheckedModel("models/tuned", Path("models/tuned"), "b" * 64),
        main=compare(*sides, dataset),
        truncation=AUDIT,
    )


def hostile_dataset() -> RetrievalDataset:
    dataset = word_dataset()
    return replace(
        dataset,
        queries={query_id: f"{text} {HOSTILE}" for query_id, text in dataset.queries.items()},
        corpus={doc_id: f"{text} {HOSTILE}" for doc_id, text in dataset.corpus.items()},
        sources=(HOSTILE,),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(make_report(hostile_dataset()), path)
    return path


def browse(page: Path, *options: str) -> str:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,3600"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run([*command, profile, *options, page.as_uri()], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


def test_all_text_from_data_is_escaped(page):
    html = page.read_text(encoding="utf-8")
    assert "<script>document" not in html
    assert "<b>alpha</b>" not in html
    assert html.count("&lt;script&gt;document.title") > 20


def test_the_page_stands_alone(page):
    html = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!\#)""", html)
    assert not re.findall(r"url\((?!\#)|@import", html)


def test_the_same_check_makes_the_same_page(page):
    assert render_report(make_report(hostile_dataset())) == page.read_text(encoding="utf-8")


def test_worst_regressions_come_first():
    report = make_report(word_dataset())
    changed = {question.text: question for question in changed_questions(report.main)}
    lost = changed["where is delta"]
    assert (lost.baseline_rank, lost.tuned_rank, lost.baseline_top.judgment) == (1, 4, "good")
    assert lost.gain == min(question.gain for question in changed.values())
    html = render_report(report)
    assert html.index("where is delta") < html.index("where is beta") < html.index("where is phi")


def test_the_page_says_what_the_check_found(page):
    html = page.read_text(encoding="utf-8")
    for said in ("Improved", "75.0% of the text", "K =", "No guard set was given", "a" * 64, "b" * 64):
        assert said in html


def test_one_question_and_one_chunk_are_counted_as_one():
    word = WORDS[0]
    dataset = word_dataset().subset([f"q-{word}"])
    good = dataset.relevant_docs[f"q-{word}"]
    corpus = {doc_id: dataset.corpus[doc_id] for doc_id in good}
    report = make_report(replace(dataset, corpus=corpus, irrelevant_docs={}))
    text = " ".join(summary(report).split())
    assert "1 question can show no gain: more are needed." in text
    assert "corpus 1 chunk baseline" in text
    assert "1 question over 1 chunk</p>" in render_report(report)


def test_figures_by_hand():
    """Ten questions over twenty chunks: the tuned model finds every answer first, the baseline four of them."""
    dataset = word_dataset().subset([f"q-{word}" for word in WORDS[:10]])
    report = make_report(dataset, baseline=WORDS[:4], tuned=WORDS)
    # Of the unknown six, all chunks but the known four are as near: in corpus order, from 5th to 10th of the corpus.
    ranks = [(row["baseline_rank"], row["tuned_rank"]) for row in report.main.query_ranks()]
    assert ranks == [(1, 1)] * 4 + [(rank, 1) for rank in range(1, 7)]
    assert report.main.k_for_recall[0.5] == {"baseline": 1, "tuned": 1, "bm25": 1, "hybrid": 1}
    assert report.main.k_for_recall[0.8] == {
        "baseline": 4,
        "tuned": 1,
        "bm25": 1,
        "hybrid": 1,
    }  # 5 by the 1st, 8 by the 4th
    # 6000 wordpieces in 20 chunks are 300 in each; three chunks less.
    assert report.tokens_per_answer == {"chunk": 300.0, "baseline": 1200.0, "tuned": 300.0}
    # Five changed questions can be luck in 1 of 32 cases, and twice that counts: 6.25 %, so six would have to change.
    assert report.verdict == "not enough evidence"
    assert report.main.judgment.differences["recall@1"].p == pytest.approx(2 / 32)
    gains = [0.0] * 5 + [1.0] * 5
    z = 1.959964 + 0.841621
    expected = z * np.std(gains, ddof=1) / 10**0.5
    assert report.main.judgment.smallest_gain["recall@1"] == pytest.approx(max(expected, 6 / 10), abs=1e-5)
    assert tokens_in_words(report) == ""  # a saving is claimed with a proven gain alone
    proven = make_report(word_dataset(), baseline=WORDS[:4], tuned=WORDS)  # 16 of 20 by the 12th
    assert tokens_in_words(proven).startswith("That is about 3,300 tokens less")


def test_intervals_of_few_questions_are_not_said_to_rule_out_chance():
    few = word_dataset().subset(f"q-{word}" for word in WORDS[4:9])
    pages = [render_report(make_report(data, baseline=WORDS[:4], tuned=WORDS)) for data in (word_dataset(), few)]
    assert ["So few cannot rule out chance" in page for page in pages] == [False, True]


def test_a_failed_guard_is_seen_at_once():
    improved = make_report(word_dataset(), baseline=WORDS[:4], tuned=WORDS)
    worse = make_report(word_dataset(), baseline=WORDS, tuned=WORDS[:4])
    assert '<body class="improved">' in render_report(improved)
    guarded = render_report(replace(improved, guards={"other": worse.main}))
    assert '<body class="worse">' in guarded
    assert "But it is worse on other" in guarded


@in_browser
def test_a_browser_shows_it_and_runs_nothing_from_the_data(page):
    dom = browse(page, "--dump-dom")
    assert "<title>Retrieval check: improved</title>" in dom
    assert dom.count("<svg") == 4


@in_browser
def test_the_search_leaves_what_holds_the_words(page, tmp_path):
    searching = tmp_path / "searching.html"
    typed = "search.value = 'Where is OMICRON'; search.dispatchEvent(new Event('input'));"
    html = page.read_text(encoding="utf-8")
    searching.write_text(html.replace("</body>", f"<script>{typed}</script></body>"), encoding="utf-8")
    questions = re.findall(r"<details class=\"question \w+\"( hidden)?", browse(searching, "--dump-dom"))
    assert len(questions) > 5
    assert questions.count("") == 1


@in_browser
@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)], ids=["dark", "light"])
def test_it_can_be_read_in_light_and_in_dark(page, tmp_path, scheme, dark):
    shot = tmp_path / "shot.png"
    browse(page, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
    pixels = matplotlib.image.imread(shot)[..., :3].mean(axis=2)
    paper = np.median(pixels)
    assert (paper < 0.2) == dark
    # Ink: text and plots stand out from the paper on a visible part of the page.
    assert (np.abs(pixels - paper) > 0.5).mean() > 0.01

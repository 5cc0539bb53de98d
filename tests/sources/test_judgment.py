import pytest

from docsgpt_embtune.sources.judgment import JudgedQuestions, MadeQuestion, parse_verdicts
from docsgpt_embtune.sources.language_model import WrongFormError
from docsgpt_embtune.sources.prompts import load_prompts

CORPUS = {"own": "Anchors lie in the boathouse.", "near": "Anchors are heavy.", "far": "Candles burn."}
QUESTION = MadeQuestion("where are the anchors?", "fact", "own")


@pytest.fixture
def judgment():
    return JudgedQuestions(load_prompts().judge, CORPUS, "own", [QUESTION], [["near", "far"]])


def letter_of(judgment, doc_id):
    before, _, _ = judgment.prompt.partition(f"]\n{CORPUS[doc_id]}")
    return before[-1]


def verdict(judgment, best, *answering, depends=False):
    answered_by = [letter_of(judgment, doc_id) for doc_id in answering]
    return {"best": best and letter_of(judgment, best), "answered_by": answered_by, "depends_on_passage": depends}


def test_the_near_miss_is_the_likeliest_chunk_that_does_not_answer(judgment):
    assert judgment.near_miss(QUESTION, verdict(judgment, "own", "own")) == "near"
    assert judgment.near_miss(QUESTION, verdict(judgment, "own", "own", "near")) == "far"
    assert judgment.near_miss(QUESTION, verdict(judgment, "own", "own", "near", "far")) is None


def test_questions_are_thrown_out_for_a_reason(judgment):
    assert judgment.fault_of(verdict(judgment, "own", "own")) is None
    assert judgment.fault_of(verdict(judgment, "")) == "not answered by its chunk"
    assert judgment.fault_of(verdict(judgment, "near", "own", "near")) == "answered better by another chunk"
    assert judgment.fault_of(verdict(judgment, "own", "own", depends=True)) == "depends on its passage"


def test_the_order_of_passages_does_not_tell_the_own_one():
    corpus = {str(number): f"Passage {number}." for number in range(60)}
    places = set()
    for number in range(0, 60, 3):
        own, *rivals = str(number), str(number + 1), str(number + 2)
        asked = JudgedQuestions(load_prompts().judge, corpus, own, [MadeQuestion("?", "fact", own)], [rivals])
        places.add(asked.prompt.partition(f"]\n{corpus[own]}")[0][-1])
    assert places == {"A", "B", "C"}


@pytest.mark.parametrize(
    "answer",
    [
        '{"verdicts": []}',
        '{"verdicts": [{"question": 2, "best": "A", "answered_by": []}]}',
        '{"verdicts": [{"question": 1, "best": "Z", "answered_by": ["A"]}]}',
        '{"verdicts": [{"question": 1, "best": "A", "answered_by": "A"}]}',
        '{"verdicts": [{"question": 1, "best": "A", "answered_by": [["A"]]}]}',
        '{"verdicts": {"1": "A"}}',
        "[1, 2]",
    ],
)
def test_verdicts_of_another_form_are_not_taken(answer):
    with pytest.raises(WrongFormError):
        parse_verdicts(answer, questions=1, letters=frozenset("AB"))


def test_verdicts_in_prose_and_fences_are_taken():
    verdicts = '{"verdicts": [{"question": "1", "best": "none", "answered_by": ["none"]}]}'
    answer = f'<think>{{so}} {{"verdicts": 1}}</think>Sure:\n```json\n{verdicts}\n```'
    assert parse_verdicts(answer, questions=1, letters=frozenset("AB")) == [
        {"best": "", "answered_by": [], "depends_on_passage": False}
    ]

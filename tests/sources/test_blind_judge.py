import pytest

from docsgpt_embtune.sources.blind_judge import JudgedQuestions, MadeQuestion, parse_questions, parse_verdicts
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
    assert judgment.near_miss(QUESTION, ["own"]) == "near"
    assert judgment.near_miss(QUESTION, ["own", "near"]) == "far"
    assert judgment.near_miss(QUESTION, ["own", "near", "far"]) is None


def test_questions_put_again_stand_before_the_same_passages_backwards(judgment):
    again = judgment.turned([QUESTION])
    letters = [letter_of(judgment, doc_id) + letter_of(again, doc_id) for doc_id in CORPUS]
    assert sorted(letters) == ["AC", "BB", "CA"]
    assert again.questions == [QUESTION]


def test_questions_are_thrown_out_for_a_reason(judgment):
    assert judgment.fault_of(verdict(judgment, "own", "own")) is None
    assert judgment.fault_of(verdict(judgment, "")) == "not answered by its chunk"
    assert judgment.fault_of(verdict(judgment, "near", "own", "near")) == "answered better by another chunk"
    assert judgment.fault_of(verdict(judgment, "own", "own", depends=True)) == "depends on its passage"
    assert judgment.fault_of(None) == "not judged"


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
        '{"verdicts": [{"question": 2, "best": "A", "answered_by": []}, {"question": 3, "answered_by": []}]}',
        '{"verdicts": [{"question": 1, "best": "Z", "answered_by": ["A"]}]}',
        '{"verdicts": [{"question": 1, "best": "B", "answered_by": ["A"]}]}',
        '{"verdicts": {"1": "A"}}',
        "[1, 2]",
    ],
)
def test_verdicts_of_another_form_are_not_taken(answer):
    with pytest.raises(WrongFormError):
        parse_verdicts(answer, questions=1, letters=frozenset("AB"))


@pytest.mark.parametrize(
    ("row", "best", "answered_by"),
    [
        ('"best": "A", "answered_by": "A"', "A", ["A"]),
        ('"best": "[b]", "answered_by": ["b.", "D"]', "B", ["B"]),  # there is no D
        ('"best": "A", "answered_by": [["A"]]', "A", ["A"]),
        ('"best": null, "answered_by": []', "", []),
        ('"best": "None", "answered_by": null', "", []),
        ('"best": "A", "answered_by": []', "A", []),
    ],
)
def test_verdicts_as_small_models_write_them_are_taken(row, best, answered_by):
    depends = '"depends_on_passage": "true"'
    (found,) = parse_verdicts(
        f'{{"verdicts": [{{"question": "1.", {row}, {depends}}},]}}', questions=1, letters=frozenset("AB")
    )
    assert found == {"best": best, "answered_by": answered_by, "depends_on_passage": True}


def test_a_verdict_of_no_use_costs_its_question_alone():
    rows = '{"question": 1, "best": "D", "answered_by": ["D"]}, {"question": 2, "best": "A", "answered_by": ["A"]}'
    (first, second) = parse_verdicts(f'{{"verdicts": [{rows}', questions=2, letters=frozenset("AB"))  # cut off
    assert first is None
    assert second["best"] == "A"
    by_words = '[{"question": "Why?", "best": "A", "answered_by": ["A"]}, {"question": "Who?", "answered_by": []}]'
    assert [v["best"] for v in parse_verdicts(by_words, questions=2, letters=frozenset("AB"))] == ["A", ""]


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        ('{"questions": [{"kind": "a", "question": "One?"}]}\n{"questions": [{"question": "Two?"}]}', ["One?", "Two?"]),
        ('{"questions": [{"kind": "a", "question": "One?"}, {"question": "Tw', ["One?"]),
        ('[{"question": "One?"}, {"question": "Two?"}]', ["One?", "Two?"]),
        ('{"questions": ["One?", "Two?"]}', ["One?", "Two?"]),
        ('{"questions": [{"question": "One?"}, {"text": "Two?"}]} (the {form} is right)', ["One?"]),
        ('<think>{"questions": ["Draft?"]}</think>{"questions": []}', []),
    ],
    ids=["two objects", "cut off", "a list", "strings", "prose behind", "thoughts"],
)
def test_questions_as_small_models_write_them_are_taken(answer, asked):
    assert [row["question"] for row in parse_questions(answer)] == asked


def test_verdicts_in_prose_and_fences_are_taken():
    verdicts = '{"verdicts": [{"question": "1", "best": "none", "answered_by": ["none"]}]}'
    answer = f'<think>{{so}} {{"verdicts": 1}}</think>Sure:\n```json\n{verdicts}\n```'
    assert parse_verdicts(answer, questions=1, letters=frozenset("AB")) == [
        {"best": "", "answered_by": [], "depends_on_passage": False}
    ]

import pytest

from docsgpt_embtune.data.preparation.cut_texts import cut_texts

NOUNS = [f"{start}{end}" for start in ("chan", "sour", "menu", "pictu") for end in ("nel", "ce", "bar", "re", "let")]
BUTTONS = ["red", "green", "blue", "yellow", "white"]
SENTENCES = [
    f"Choose the {noun} of the {owner} and press the {button} button to confirm the installation of the {noun}."
    for noun in NOUNS
    for owner in ("television", "telephone", "computer", "speaker")
    for button in BUTTONS
]
ALL = list(enumerate(SENTENCES))
CUT = str(len(SENTENCES))


def numbered(texts):
    return {str(number): text for number, text in enumerate(texts)}


@pytest.mark.parametrize("end", [" the", " of the instal"])
def test_text_that_ends_in_what_ends_no_sentence_was_cut(end):
    assert cut_texts(numbered([*SENTENCES, f"Press the green button{end}"])) == {CUT: "word"}


def test_text_that_ends_as_sentences_do_was_not_cut():
    assert not cut_texts(numbered([*SENTENCES, "The menu of the television", "Confirm the installation of the source"]))


def test_nothing_is_suspected_where_the_habit_is_to_end_without_a_full_stop():
    signed = [f"{text}\nAdded by {'Ann' if number % 2 else 'Tel'}{number % 3 * ' M'}" for number, text in ALL]
    assert "word" not in cut_texts(numbered(signed)).values()


def test_more_is_suspected_where_most_texts_were_cut():
    cut = [text[: 40 + number % 50] for number, text in ALL[::8]]
    found = cut_texts(numbered([*SENTENCES, *cut]))
    of_the_cut = {text_id for text_id, end in found.items() if end == "word" and int(text_id) >= len(SENTENCES)}
    assert len(of_the_cut) >= 0.6 * len(cut)
    assert len(of_the_cut) == len(found)


def test_dots_and_a_common_greatest_length():
    limited = [
        f"Logs are kept for a week, and then they are deleted by {name}"[:58] for name in ("root", "Adam", "Eve")
    ]
    texts = numbered([*limited, "See below ..."])
    assert cut_texts(texts) == {"0": "length", "1": "length", "2": "length", "3": "dots"}


def test_dots_that_may_be_meant_tell_of_a_cut_only_at_a_common_greatest_length():
    asked = [
        f"I cannot reset my {name} it just keeps loading and loading{end}"
        for name, end in (("password", "..."), ("invoice", "…"), ("account", " ..."))
    ]
    assert len(cut_texts(numbered(asked))) == 3
    assert not cut_texts(numbered(asked), dots_may_be_meant=True)
    limited = [f"How do I reset the account of {name} in the portal"[:55] + "..." for name in ("Adam", "Ann ", "Eve ")]
    assert set(cut_texts(numbered([*limited, "Why ..."]), dots_may_be_meant=True)) == {"0", "1", "2"}


def test_short_texts_of_one_length_were_not_cut():
    assert not cut_texts(numbered(f"{'天地玄黄宇宙洪荒日月盈昃' * 2}"[number:][:12] for number in range(12)))


@pytest.mark.parametrize("texts", [{}, {"1": ""}, {"1": " \n"}, {"1": "word"}, {"1": "…"}, {"1": "12"}])
def test_texts_that_hold_next_to_nothing(texts):
    assert set(cut_texts(texts).values()) <= {"dots"}

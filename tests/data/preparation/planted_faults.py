"""For each check, how its fault is put into made-up data."""

from .made_up_data import WORDS, edited, numbered, sentence


def plant_empty_question(data: dict) -> None:
    data["queries"]["q3"] = " ?! "


def plant_empty_chunk(data: dict) -> None:
    data["corpus"]["c3"] = "---"


def plant_unknown_id(data: dict) -> None:
    data["relevant_docs"]["q3"].append("nowhere")


def plant_duplicate_chunk(data: dict) -> None:
    data["corpus"]["copy"] = data["corpus"]["c3"].upper()
    data["relevant_docs"]["q4"].append("copy")


def plant_duplicate_question(data: dict) -> None:
    data["queries"]["again"] = data["queries"]["q3"].upper()
    data["relevant_docs"]["again"] = ["c5"]


def plant_good_and_bad(data: dict) -> None:
    data["irrelevant_docs"]["q3"] = ["c3", "c4"]


def plant_bad_chunk_answers(data: dict) -> None:
    data["corpus"]["copy"] = numbered(data["corpus"]["c3"])
    data["irrelevant_docs"]["q3"] = ["copy"]


def plant_bad_chunk_may_answer(data: dict) -> None:
    data["corpus"]["edit"] = edited(data["corpus"]["c3"])
    data["irrelevant_docs"]["q3"] = ["edit"]


def plant_two_chunks_answer(data: dict) -> None:
    data["corpus"]["again"] = numbered(data["corpus"]["c3"])


def plant_two_chunks_may_answer(data: dict) -> None:
    data["corpus"]["edit"] = edited(data["corpus"]["c3"])


def plant_copied_question(data: dict) -> None:
    data["queries"]["q3"] = " ".join(data["corpus"]["c3"].split()[3:9]) + "?"


def plant_cut_question(data: dict) -> None:
    for number in range(3):  # of which an export left as many characters
        data["queries"][f"q{number}"] = f"{sentence(number + 60)[:60]}..."


def plant_cut_chunk(data: dict) -> None:
    for number in range(4, 30):
        data["corpus"][f"c{number}"] += " Installation is here."
    data["corpus"]["c3"] += " Go on with the install"


def plant_foreign_question(data: dict) -> None:
    english = ["When does the office open in the morning?", "Who can help me with my tax return this year?"]
    for number in range(0, 40):
        data["queries"][f"q{number}"] = f"{english[number % 2]} Asked by {WORDS[number + 900]} of the {WORDS[number]}."
    data["queries"]["q3"] = "Wie lange werden die Unterlagen aufbewahrt, und wer darf sie einsehen?"


def plant_foreign_chunk(data: dict) -> None:
    for number in range(40):
        data["corpus"][f"c{number}"] = f"The office of {sentence(number, 6)} is open for people in the morning."
    data["corpus"]["c3"] = (
        "Die Unterlagen werden zehn Jahre lang aufbewahrt und danach vernichtet, so will es das Gesetz."
    )


def plant_no_good_chunk(data: dict) -> None:
    data["relevant_docs"]["q3"] = []


PLANTS = {name.removeprefix("plant_").replace("_", "-"): plant for name, plant in globals().items() if "plant_" in name}


FOR_A_PERSON = {"bad-chunk-may-answer", "two-chunks-may-answer", "cut-chunk", "foreign-question", "foreign-chunk"}


OF_HELD_OUT_FILES = {"seen-question", "seen-answer", "nearly-seen-question", "nearly-seen-answer"}

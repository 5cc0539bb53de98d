from docsgpt_embtune.evaluation.smoke_test import smoke_test


def test_a_heading_or_a_first_sentence_asks_for_its_chunk():
    made = smoke_test({"a": "Rotating the logs\nEvery night.", "b": "Disks fill up fast. Then they are full."})
    assert made.queries == {"a": "Rotating the logs", "b": "Disks fill up fast."}
    assert made.relevant_docs == {"a": ("a",), "b": ("b",)}


def test_openings_that_are_short_or_shared_do_not_ask():
    made = smoke_test(
        {"a": "Notes\nlong text", "b": "See the next page. X", "c": "See the next page. Y", "d": "One of its own"}
    )
    assert list(made.queries) == ["d"]
    assert smoke_test({"a": "Notes"}) is None


def test_questions_are_spread_over_the_corpus():
    made = smoke_test({str(i): f"This is number {i}" for i in range(1000)}, questions=10)
    assert list(made.queries) == [str(i) for i in range(0, 1000, 100)]


def test_scripts_without_spaces_have_openings_too():
    made = smoke_test({"a": "如何重置您的密码。打开账户页面。", "b": "ไฟล์บันทึกจะถูกหมุนเวียนทุกคืน", "c": "目录\n正文很长"})
    assert made.queries == {"a": "如何重置您的密码。", "b": "ไฟล์บันทึกจะถูกหมุนเวียนทุกคืน"}

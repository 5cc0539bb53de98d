import pytest

from docsgpt_embtune.sources.question_filter import fault_of

CHUNK = "The backup is written to the second disk every night and verified in the morning."


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("where do backups go?", None),
        ("backup second disk", None),
        ("?!", "empty"),
        ("why " * 100, "too long"),
        ("What does the text say about backups?", "names the text"),
        ("According to the document, where is the backup?", "names the text"),
        ("Was steht im Text über die Sicherung?", "names the text"),
        ("¿Qué dice el texto?", "names the text"),
        ("The backup is written to the second disk?", "copied from its chunk"),
        ("So is the backup written to the second disk every night?", "copied from its chunk"),
        ("How do I restore what was written to the second disk?", None),
        ("Куда пишется резервная копия?", "in another script"),
    ],
)
def test_faults_are_named(question, fault):
    assert fault_of(question, CHUNK) == fault


def test_japanese_mixes_scripts():
    assert fault_of("バックアップはどこですか", "バックアップは毎晩、二番目のディスクに書き込まれます。") is None

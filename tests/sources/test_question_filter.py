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
        ("¿Qué hay según el texto?", "names the text"),
        ("Que dit le texte de la sauvegarde ?", "names the text"),
        ("Selon l'extrait, où va la copie ?", "names the text"),
        ("Cosa dice il testo?", "names the text"),
        ("O que diz o texto?", "names the text"),
        ("Wohin geht laut dem Text die Sicherung?", "names the text"),
        ("What is in this passage?", "names the text"),
        ("How do I center the text in a button?", None),
        ("how do I split the paragraph at the cursor", None),
        ("¿cómo centrar el texto?", None),
        ("Comment centrer le texte ?", None),
        ("Come centro il testo?", None),
        ("Como centralizo o texto?", None),
        ("Wie suche ich im Text rückwärts?", None),
        ("Wie suche ich nach dem Absatz?", None),
        ("Can widgets be hidden based on the page?", None),
        ("The backup is written to the second disk?", "copied from its chunk"),
        ("So is the backup written to the second disk every night?", "copied from its chunk"),
        ("How do I restore what was written to the second disk?", None),
        ("Куда пишется резервная копия?", "in another script"),
    ],
)
def test_faults_are_named(question, fault):
    assert fault_of(question, CHUNK) == fault


def test_another_script_can_be_asked_for():
    assert fault_of("Куда пишется резервная копия?", CHUNK, in_any_script=True) is None


def test_japanese_mixes_scripts():
    assert fault_of("バックアップはどこですか", "バックアップは毎晩、二番目のディスクに書き込まれます。") is None

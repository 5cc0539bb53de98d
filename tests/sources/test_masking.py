import pytest

from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.sources.masking import mask


@pytest.mark.parametrize(
    ("typed", "masked"),
    [
        ("write to ann.b+c@mail.example.com, please", "write to [email], please"),
        ("jörg@bücher.example and root@host.internal.", "[email] and [email]."),
        ("call +49 30 901820 or (212) 736-5000", "call [phone] or [phone]"),
        ("sk-proj-AbCdEfGhIjKlMnOp1234567890qrstuv is refused", "[key] is refused"),
        ("AKIAIOSFODNN7EXAMPLE gives 403", "[key] gives 403"),
        ("password = 'hunter2secret' in .env", "password = '[key]' in .env"),
        ("is 9f86d081884c7d659a2feaa0c55ad015 right?", "is [key] right?"),
        ("postgres://bob:pa55word@db/x does not connect", "postgres://bob:[key]@db/x does not connect"),
        ("two lines\nAKIAIOSFODNN7EXAMPLE", "two lines\n[key]"),
    ],
)
def test_what_identifies_or_opens_is_masked(typed, masked):
    assert mask(typed) == masked


@pytest.mark.parametrize(
    "typed",
    [
        "how do I set the password in the settings?",
        "what does password: mean in config.yaml?",
        "why does LlamaIndexEmbeddingQAFinetuneDataset fail in 0.19.0?",
        "DocsGPT-0.19.0-docker-compose-Ollama.yaml cannot be read",
        "http://localhost:7091/api/search returns 500",
        "Wie lange werden Protokolle aufbewahrt?",
    ],
)
def test_questions_stay_what_they_are(typed):
    assert mask(typed) == typed


def test_countries_are_known_in_either_case_or_refused():
    assert mask("call 030 901820", phone_regions=["de"]) == "call [phone]"
    for region in ("UK", "XX", ""):
        with pytest.raises(DatasetError, match=f"phone region '{region}' is no country with phone numbers"):
            mask("call 030 901820", phone_regions=["DE", region])

"""Six chunks, and questions for them from a server."""

from docsgpt_embtune.openai_client.client import Patience
from docsgpt_embtune.sources.answer_journal import AnswerJournal
from docsgpt_embtune.sources.language_model import LanguageModel
from docsgpt_embtune.sources.prompts import load_prompts
from docsgpt_embtune.sources.synthesis import Synthesizer

CORPUS = {
    f"c{number}": f"{word} is kept in the {place}, beside the other things that are not used in winter."
    for number, (word, place) in enumerate(
        [
            ("Anchor", "boathouse"),
            ("Bicycle", "shed"),
            ("Candle", "drawer"),
            ("Drill", "workshop"),
            ("Easel", "attic"),
            ("Fiddle", "music room"),
        ]
    )
}


PATIENT = 60.0  # seconds: an answer that a busy machine is slow to give must not be asked for again


IMPATIENT = 1.0  # of clients whose server never answers


def ask_for(corpus, journal_path, server, *, timeout=PATIENT, **settings):
    with (
        LanguageModel(server.url, "tiny", patience=Patience(first_wait=0.001, silence=timeout)) as model,
        AnswerJournal(journal_path, "tiny") as journal,
    ):
        return Synthesizer(corpus, model, journal, load_prompts(), **settings).run(), model.spent

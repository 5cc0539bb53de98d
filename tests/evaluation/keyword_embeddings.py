"""An embeddings class without a model: one dimension per keyword, as long as the word is frequent; with questions."""

from collections.abc import Sequence

from docsgpt_embtune.data.dataset import RetrievalDataset

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau phi".split()


class KeywordEmbeddings:
    def __init__(self, keywords: Sequence[str], scale: float = 1.0) -> None:
        self.keywords = list(keywords)
        self.scale = scale
        self.dimension = len(self.keywords)
        self.embedded: list[str] = []

    def embed_query(self, text: str) -> list[float]:
        return self._vector(text)

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        self.embedded.extend(texts)
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        words = text.lower().split()
        return [self.scale * words.count(keyword) for keyword in self.keywords]


def word_dataset() -> RetrievalDataset:
    """Each word asks for its own chunk; the chunk of the next word is the bad one."""
    return RetrievalDataset(
        queries={f"q-{word}": f"where is {word}" for word in WORDS},
        corpus={word: f"{word} stands here" for word in WORDS},
        relevant_docs={f"q-{word}": (word,) for word in WORDS},
        irrelevant_docs={f"q-{w}": (bad,) for w, bad in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)},
    )

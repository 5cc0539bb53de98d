"""An embeddings class without a model: one dimension per keyword, as long as the word is frequent."""

from collections.abc import Sequence


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

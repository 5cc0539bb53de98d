"""Distil a model's ranking by tokens into its vectors: how to learn from a corpus where nobody asked anything.

A vector blurs what a model knows of each token. Where each token of a question is matched with the most similar token
of a chunk, and rare tokens count more, an untuned model finds far more, but this needs an index that no store has.
nDCG@10 of people's (training) questions over up to 900 chunks, untuned all-MiniLM-L6-v2:

| chunks | by vectors | by tokens |
|---|---|---|
| a television's manual | .484 | .642 |
| a language's reference | .497 | .564 |
| health agencies' pages | .704 | .768 |
| a course's questions and answers | .834 | .907 |
| annual reports | .643 | .726 |
| medical abstracts | .946 | .935 |

With all-mpnet-base-v2: .506 and .619 on the manual, .823 and .910 on the questions and answers, .707 and .791 on the
reports. So the vectors learn to rank as the tokens do. The questions are words of a chunk, as there are no others. The
chunk itself is left out of the ranking: it contains these very words, which people who ask do not have, so that ranking
it first would only teach exact matching. Including it made health agencies' pages worse (.747 to .719, keywords beside
both), and leaving it out better (.756).

Sources:
    Khattab and Zaharia, 2020, "ColBERT": late interaction, here with the weights of BM25's rarity.
    Hinton et al., 2015, "Distilling the knowledge in a neural network": a ranking taught as a distribution.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.precision import Precision, arithmetic
from docsgpt_embtune.serving.batching import batches_within
from docsgpt_embtune.serving.packing import in_passes, tokens_per_pass
from docsgpt_embtune.static_model import beginnings_read, is_static, tokens_read
from docsgpt_embtune.training.examples import Question, TrainingExamples, with_as_many_bad_ones
from docsgpt_embtune.training.losses import EachTextOnce, Features, unique_texts

# Share of the change in the weights that is kept: questions made of the chunks would prefer all of it. nDCG@10 of
# people's (training) questions over up to 900 chunks of each, with keywords at a fifth of the score in all columns but
# the first:
# | chunks | untuned, no keywords | untuned | a quarter | half | three quarters | the whole |
# |---|---|---|---|---|---|---|
# | a television's manual | .484 | .536 | .578 | .603 | .619 | .626 |
# | a language's reference | .497 | .514 | .546 | .559 | .554 | .555 |
# | a course's questions and answers | .834 | .867 | .882 | .888 | .892 | .894 |
# | health agencies' pages | .704 | .747 | .759 | .756 | .754 | .747 |
# | medical abstracts | .932 | .937 | .934 | .928 | .922 | – |
SHARE_BY_TOKENS = 0.75
# Chunks to make questions of, as in that table: each batch moves the weights further. On all 3,300 of the health
# agencies' pages, keywords alone had .679; three quarters of the way after 3,099 questions gave .671, and after 900
# questions .683.
MOST_ASKED_BY_TOKENS = 900
RANKED_FOR_ONE = 2  # mined chunks that are ranked for a question, one of them found by BM25

SHARPNESS = 20.0  # inverse temperature of both distributions; that of the library's ranking loss
LEFT_OUT = -1e4  # a logit whose probability is zero
_TEXTS_AT_ONCE = 1024  # in a call of the tokenizer


def can_be_taught_by_tokens(model: SentenceTransformer) -> bool:
    """Tell whether a model pools its tokens by the mean and pads on the right; no other kind was tried."""
    if is_static(model) or getattr(model.tokenizer, "padding_side", None) != "right":
        return False
    poolings = [module for module in model if isinstance(module, Pooling)]
    return [pooling.pooling_mode for pooling in poolings] == ["mean"]


def chunks_to_rank(questions: Sequence[Question]) -> TrainingExamples:
    """Lay out questions with the chunks near them, without the chunk that each was made of.

    Args:
        questions: The `good` chunk of each is the one it was made of, and the `bad` ones are those near it.

    Returns:
        Columns (anchor, chunk_1, …, label); a label is the numbers of the question's own chunk and of the row's chunks.

    Raises:
        TrainingError: If there are fewer than two chunks to rank.
    """
    questions = with_as_many_bad_ones(questions)
    count = len(questions[0].bad)
    if count < 2:
        raise TrainingError("there are too few chunks to rank for one another's words; give more, or --train")
    numbers: dict[str, int] = {}
    label = [[numbers.setdefault(text, len(numbers)) for text in (q.good[0], *q.bad)] for q in questions]
    rows = {
        "anchor": [question.text for question in questions],
        **{f"chunk_{place + 1}": [question.bad[place] for question in questions] for place in range(count)},
        "label": label,
    }
    each_alone = tuple((number,) for number in range(len(questions)))
    return TrainingExamples(Dataset.from_dict(rows), each_alone, good_texts=(), turns=each_alone)


def rarity_of_tokens(model: SentenceTransformer, chunks: Sequence[str]) -> torch.Tensor:
    """Return the weight of each token of the vocabulary, (V,): BM25's IDF over the chunks, 0 for special tokens."""
    tokenizer = model.tokenizer
    in_chunks = torch.zeros(len(tokenizer))
    for start in range(0, len(chunks), _TEXTS_AT_ONCE):
        texts = beginnings_read(model, chunks[start : start + _TEXTS_AT_ONCE])
        for ids in tokenizer(texts, truncation=True, max_length=tokens_read(model))["input_ids"]:
            in_chunks[list(set(ids))] += 1
    rarity = torch.log1p((len(chunks) - in_chunks + 0.5) / (in_chunks + 0.5))
    rarity[tokenizer.all_special_ids] = 0.0
    return rarity


class TaughtByTokens(EachTextOnce):
    """The loss of vectors that shall rank a batch's chunks as the tokens of the model before training rank them.

    Args:
        model: The model under training, with its weights before it.
        rarity: Weight of each token, (V,).
        precision: Precision of the teacher's arithmetic.
    """

    def __init__(self, model: SentenceTransformer, rarity: torch.Tensor, precision: Precision) -> None:
        super().__init__(model, loss=None)
        self._teacher = _Teacher(model, rarity, precision)

    def forward(self, sentence_features: Sequence[Features], labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch, given the tokens of the columns and the labels of `chunks_to_rank`."""
        features = list(sentence_features)
        tokens, place = unique_texts(features, self.pad_token_id)
        asked, of_chunks = place[: len(labels)], place[len(labels) :]
        ranked, column = torch.unique(of_chunks, return_inverse=True)  # (C,)
        numbers = labels.new_empty(len(ranked)).scatter_(0, column, labels[:, 1:].T.flatten())
        own = labels[:, :1] == numbers  # (B, C)
        embeddings = self._embed(tokens)
        with torch.autocast(embeddings.device.type, enabled=False):
            learned = embeddings[asked].float() @ embeddings[ranked].float().T
            taught = self._teacher.scores(_rows(tokens, asked), _rows(tokens, ranked), own)
            learned, taught = (
                (SHARPNESS * scores).masked_fill(own, LEFT_OUT).log_softmax(dim=1) for scores in (learned, taught)
            )
            return torch.nn.functional.kl_div(learned, taught, reduction="batchmean", log_target=True)


class _Teacher:
    """A frozen copy of the model; not a `Module`, so that its weights are no parameters of the loss."""

    def __init__(self, model: SentenceTransformer, rarity: torch.Tensor, precision: Precision) -> None:
        self._model = copy.deepcopy(model).eval()
        self._rarity = rarity.to(model.device)
        self._precision = precision

    @torch.no_grad()
    def scores(self, questions: Features, chunks: Features, own: torch.Tensor) -> torch.Tensor:
        """Score chunks by their tokens, scaled to the spread of the vectors' cosines: (B, C).

        Args:
            questions: Tokens, (B, L) each.
            chunks: Tokens, (C, L) each.
            own: Whether a chunk is the one that a question was made of, (B, C).
        """
        asked, states = self._read(questions)
        kept = questions["attention_mask"].bool()
        rarity = self._rarity[questions["input_ids"]] * kept  # (B, L)
        rarity = rarity / rarity.sum(dim=1, keepdim=True).clamp(min=torch.finfo(rarity.dtype).tiny)

        def scored(some: dict[str, torch.Tensor]) -> torch.Tensor:
            """Return the scores of P chunks, followed by their cosines, (P, 2 * B)."""
            vectors, read = self._read(some)
            unread = ~some["attention_mask"].bool()  # (P, K)
            alike = torch.einsum("qd,pkd->qpk", states[kept], read).masked_fill(unread, -1.0).amax(dim=2)  # (T, P)
            of_questions = alike.new_zeros(*kept.shape, len(read)).masked_scatter(kept[..., None], alike)  # (B, L, P)
            return torch.cat([(rarity[..., None] * of_questions).sum(dim=1), asked @ vectors.T]).T

        lengths = chunks["attention_mask"].sum(dim=1).tolist()
        scores, cosines = in_passes(scored, chunks, batches_within(tokens_per_pass(), lengths)).T.chunk(2)
        return scores * (_spread(cosines, own) / _spread(scores, own))

    def _read(self, tokens: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (U, D) and the tokens' states (U, L, E), unit norm each."""
        with arithmetic(self._precision, self._model.device):
            found = self._model(dict(tokens))
        return found["sentence_embedding"].float(), torch.nn.functional.normalize(
            found["token_embeddings"].float(), dim=2
        )


def _rows(tokens: Mapping[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tokens of some texts, without the columns that are padding in all of them."""
    longest = int(tokens["attention_mask"][rows].sum(dim=1).max())
    return {key: value[rows, :longest] for key, value in tokens.items()}


def _spread(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of a question's scores (B, C), its own chunk left out, averaged over questions."""
    counted = (~own).float()
    mean = (scores * counted).sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True)
    variance = ((scores - mean).square() * counted).sum(dim=1) / counted.sum(dim=1)
    return variance.sqrt().mean().clamp(min=torch.finfo(scores.dtype).tiny)

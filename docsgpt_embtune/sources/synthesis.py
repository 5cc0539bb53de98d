"""Questions for every chunk, made by a language model and judged by it blind.

First each chunk is shown alone and questions are asked for. Then each question is put before its chunk and the
chunks that a search takes for it, shuffled, and kept only if its own chunk is judged the best; the likeliest of those
that do not answer becomes its bad chunk. Other chunks that are said to answer are good only where a second judgment,
with the chunks in the opposite order, says so, too: small models name what stands first, or what the prompt names (of a
model of 1.5 billion weights, all five such chunks of twelve questions were wrong). Every answer is journaled, so the
whole can be stopped anywhere.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

from docsgpt_embtune.data.dataset import RetrievalDataset, query_digest
from docsgpt_embtune.embeddings import encodable
from docsgpt_embtune.errors import GenerationError
from docsgpt_embtune.openai_client import RefusedRequestError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.sources.answer_journal import AnswerJournal
from docsgpt_embtune.sources.judgment import MOST_PASSAGES, RIVALS, JudgedQuestions, MadeQuestion, parse_questions
from docsgpt_embtune.sources.language_model import LanguageModel
from docsgpt_embtune.sources.prompts import Prompts
from docsgpt_embtune.sources.question_filter import fault_of
from docsgpt_embtune.words import plain_tokens

FEWEST_TIMED = 3  # asked before the estimate; as many as are asked at a time, if these are more
# Rough figures, for the estimate alone, where the server does not count tokens itself.
CHARACTERS_PER_TOKEN = 4.0  # of English
_TOKENS_PER_QUESTION = 30  # with the JSON around it
_READ_WHILE_ONE_IS_WRITTEN = 10  # tokens, on a processor; a GPU reads quicker still

_LONGEST_DEAFNESS = 0.5  # seconds
_SINGLE = re.compile(r"(?<!['’])\b\w\b")  # not of "it's"
_NEGATION = re.compile(r"\b(?:not?|cannot|never|without)\b|n['’]t\b", re.IGNORECASE)

Parser = Callable[[str], Any]


@dataclass(frozen=True)
class Estimate:
    """What is still to be done.

    Attributes:
        chunks: Without questions yet.
        requests: One for each of them, and one to judge the questions of every chunk. Where several chunks are said to
            answer there will be one more.
        input_tokens: About.
        output_tokens: About.
        seconds: At the pace of those that were timed and the rate allowed.
    """

    chunks: int
    requests: int
    input_tokens: int
    output_tokens: int
    seconds: float


@dataclass(frozen=True)
class Synthesis:
    """What came of it.

    Attributes:
        dataset: The questions that were kept, over the whole corpus.
        kinds: Kind -> questions kept.
        thrown_out: Reason -> questions.
        unanswered: Chunk -> why the model gave nothing usable for it, or for judging its questions.
    """

    dataset: RetrievalDataset
    kinds: Mapping[str, int]
    thrown_out: Mapping[str, int]
    unanswered: Mapping[str, str]


class Synthesizer:
    """Makes questions for a corpus.

    Args:
        corpus: The chunks: doc_id -> text.
        model: Whom to ask.
        journal: Answers of earlier runs, and where new ones go.
        prompts: What to ask.
        questions_per_chunk: Asked for; fewer are kept.
        concurrency: Requests at a time.
        requests_per_minute: What the model was told to keep to, for the estimate.
    """

    def __init__(
        self,
        corpus: Mapping[str, str],
        model: LanguageModel,
        journal: AnswerJournal,
        prompts: Prompts,
        *,
        questions_per_chunk: int = 3,
        concurrency: int = 4,
        requests_per_minute: float | None = None,
    ) -> None:
        self._corpus = corpus
        self._twins: dict[str, tuple[str, ...]] = _ids_by_text(corpus)
        self._first_ids = {text: ids[0] for text, ids in self._twins.items()}
        self._model = model
        self._journal = journal
        self._judge_prompt = prompts.judge
        self._concurrency = concurrency
        self._requests_per_minute = requests_per_minute
        self._questions_per_chunk = questions_per_chunk
        self._question_prompts = {
            doc_id: prompts.questions.substitute(count=questions_per_chunk, passage=text)
            for text, doc_id in self._first_ids.items()
        }

    def estimate(self) -> Estimate:
        """Ask some of what is missing, as many at a time as in the run, and reckon from them what the others take.

        Raises:
            GenerationError: If the server cannot be used.
        """
        missing = self._missing()
        unjudged = None if missing else self._unjudged()  # which takes a search of the corpus
        unasked: dict[str, Parser] = dict.fromkeys(missing, parse_questions)
        unasked |= {judgment.prompt: judgment.parse for judgment in unjudged or ()}
        timed = dict(islice(unasked.items(), max(FEWEST_TIMED, self._concurrency)))
        started = time.perf_counter()
        self._ask_all(timed, label="timing")
        seconds = time.perf_counter() - started
        missing = self._missing()
        judgments = self._expected_judgments(missing, unjudged)
        requests = len(missing) + len(judgments)
        characters = sum(map(len, missing)) + sum(judgments)
        pace = seconds / self._effort(len(timed), sum(map(len, timed))) if timed else 0.0
        allowed = 60.0 * requests / self._requests_per_minute if self._requests_per_minute else 0.0
        return Estimate(
            chunks=len(missing),
            requests=requests,
            input_tokens=round(characters / self._characters_per_token()),
            output_tokens=round(requests * self._tokens_per_answer()),
            seconds=max(pace * self._effort(requests, characters), allowed),
        )

    def _unjudged(self) -> list[JudgedQuestions]:
        judgments = self._judgments(self._made_questions(Counter()))
        return [judgment for judgment in judgments if judgment.prompt not in self._journal]

    def _effort(self, requests: int, characters: int) -> float:
        """Return what requests take a server, in tokens written, which take longest."""
        read = characters / self._characters_per_token()
        return requests * self._tokens_per_answer() + read / _READ_WHILE_ONE_IS_WRITTEN

    def _characters_per_token(self) -> float:
        spent = self._model.spent
        return spent.input_characters / spent.input_tokens if spent.input_tokens else CHARACTERS_PER_TOKEN

    def _tokens_per_answer(self) -> float:
        """Return what an answer took so far: thoughts are paid for, too."""
        spent = self._model.spent
        return (
            spent.output_tokens / spent.answers
            if spent.output_tokens
            else (self._questions_per_chunk * _TOKENS_PER_QUESTION)
        )

    def _expected_judgments(self, missing: Sequence[str], unjudged: Sequence[JudgedQuestions] | None) -> list[int]:
        """Return the length of each judgment still to be asked for: in characters, at most.

        Args:
            missing: Prompts for questions that have no answer.
            unjudged: What was to be judged before the timing; None where questions were missing then.
        """
        if not missing:
            prompts = [judgment.prompt for judgment in (self._unjudged() if unjudged is None else unjudged)]
            return [len(prompt) for prompt in prompts if prompt not in self._journal]
        passages = min(MOST_PASSAGES, 1 + RIVALS * self._questions_per_chunk)
        return [len(self._judge_prompt.template) + passages * len(text) for text in self._first_ids]

    def run(self) -> Synthesis:
        """Ask for what is missing, judge, and put the dataset together.

        Raises:
            GenerationError: If the server cannot be used, or no question is left; what was answered is kept.
        """
        unanswered = self._ask_all(dict.fromkeys(self._question_prompts.values(), parse_questions), label="questions")
        without_questions = {
            doc_id: unanswered[prompt] for doc_id, prompt in self._question_prompts.items() if prompt in unanswered
        }
        thrown_out: Counter[str] = Counter()
        made = self._made_questions(thrown_out)
        judgments = self._judgments(made)
        unjudged = self._ask_judgments(judgments)
        dataset, kinds = self._assemble(judgments, self._judged_again(judgments), thrown_out)
        if not len(dataset):
            reasons = [f"{count} {reason}" for reason, count in thrown_out.items()]
            reasons += list(without_questions.values())[:1]
            raise GenerationError(
                f"no question is left of {len(made)} to {len(self._corpus)} chunks ({', '.join(reasons)}); look at "
                f"{self._journal.path}, and change the prompts (--write-prompts) or the model"
            )
        return Synthesis(dataset, kinds, thrown_out, without_questions | unjudged)

    def _missing(self) -> list[str]:
        return [prompt for prompt in self._question_prompts.values() if prompt not in self._journal]

    def _ask_all(self, parsers: Mapping[str, Parser], label: str) -> dict[str, str]:
        """Ask each prompt that has no answer yet; returns prompt -> why for those that get none."""
        missing = {prompt: parse for prompt, parse in parsers.items() if prompt not in self._journal}
        unanswered = {}
        with (
            ThreadPoolExecutor(self._concurrency) as pool,
            Bar(total=len(parsers), initial=len(parsers) - len(missing), desc=label) as progress,
        ):
            asked: dict[Future[None], str] = {}
            try:
                for prompt, parse in missing.items():
                    asked[pool.submit(self._ask, prompt, parse)] = prompt
                for future in as_completed(asked):
                    try:
                        future.result()
                    except RefusedRequestError as error:
                        unanswered[asked[future]] = str(error)
                    progress.update()
            except BaseException:
                try:
                    self._model.stop()
                    pool.shutdown(wait=False, cancel_futures=True)
                    _await_all([future for future in asked if not future.done()])  # paid for: it is kept
                except KeyboardInterrupt:  # once more
                    self._model.leave()
                raise
        return unanswered

    def _ask(self, prompt: str, parse: Parser) -> None:
        # Kept by the thread that asked, before it asks on: a crash costs no more than one answer for each thread.
        self._journal.add(prompt, self._model.ask(prompt, parse))

    def _made_questions(self, thrown_out: Counter[str]) -> list[MadeQuestion]:
        """Read the questions out of the journal, in the corpus' order, without faulty and repeated ones."""
        from docsgpt_embtune.evaluation.bm25 import english_tokens

        made = []
        known: set[frozenset[str]] = set()
        for doc_id, prompt in self._question_prompts.items():
            for answer in self._journal[prompt] if prompt in self._journal else []:
                # Older journals hold half characters, which cannot be asked or written.
                question = MadeQuestion(encodable(answer["question"]), encodable(answer["kind"]), doc_id)
                words = frozenset(english_tokens(question.text) or plain_tokens(question.text))
                words |= _small_differences(question.text)
                fault = fault_of(question.text, self._corpus[doc_id])
                if fault or words in known:
                    thrown_out[fault or "asked already"] += 1
                    continue
                known.add(words)
                made.append(question)
        return made

    def _judgments(self, made: Sequence[MadeQuestion]) -> list[JudgedQuestions]:
        from docsgpt_embtune.evaluation.bm25 import retrieve_bm25

        if not made:
            return []
        queries = {str(number): question.text for number, question in enumerate(made)}
        distinct = {doc_id: text for text, doc_id in self._first_ids.items()}
        ranking = retrieve_bm25(RetrievalDataset(queries, distinct, {}), k=RIVALS + 1)
        of_chunk: dict[str, list[tuple[MadeQuestion, list[str]]]] = defaultdict(list)
        for query_id, question in zip(queries, made, strict=True):
            found = [doc_id for doc_id in ranking.top(query_id, RIVALS + 1) if doc_id != question.doc_id]
            of_chunk[question.doc_id].append((question, found[:RIVALS]))
        return [
            JudgedQuestions(
                self._judge_prompt, self._corpus, doc_id, [q for q, _ in asked], [rivals for _, rivals in asked]
            )
            for doc_id, asked in of_chunk.items()
        ]

    def _ask_judgments(self, judgments: Iterable[JudgedQuestions]) -> dict[str, str]:
        unanswered = self._ask_all({judgment.prompt: judgment.parse for judgment in judgments}, label="judging")
        return {judgment.doc_id: unanswered[judgment.prompt] for judgment in judgments if judgment.prompt in unanswered}

    def _judged_again(self, judgments: Iterable[JudgedQuestions]) -> dict[MadeQuestion, list[str]]:
        """Put once more the questions that other chunks are said to answer, too, with these in the opposite order.

        Returns:
            Question -> the chunks that are then said to answer.
        """
        again = []
        for judgment in judgments:
            kept = [(q, verdict) for q, verdict in self._verdicts(judgment) if judgment.fault_of(verdict) is None]
            by_others = [q for q, verdict in kept if {*judgment.answering(verdict)} - {q.doc_id}]
            if by_others:
                again.append(judgment.turned(by_others))
        self._ask_all({judgment.prompt: judgment.parse for judgment in again}, label="judging again")
        return {q: judgment.answering(verdict) for judgment in again for q, verdict in self._verdicts(judgment)}

    def _verdicts(self, judgment: JudgedQuestions) -> Iterator[tuple[MadeQuestion, Any]]:
        """Yield each question and its verdict, None where there is none."""
        answered = judgment.prompt in self._journal
        verdicts = self._journal[judgment.prompt] if answered else [None] * len(judgment.questions)
        return zip(judgment.questions, verdicts, strict=True)

    def _assemble(
        self,
        judgments: Iterable[JudgedQuestions],
        again: Mapping[MadeQuestion, Collection[str]],
        thrown_out: Counter[str],
    ) -> tuple[RetrievalDataset, Counter[str]]:
        queries: dict[str, str] = {}
        good: dict[str, tuple[str, ...]] = {}
        bad: dict[str, tuple[str, ...]] = {}
        kinds: Counter[str] = Counter()
        for judgment in judgments:
            for question, verdict in self._verdicts(judgment):
                fault = judgment.fault_of(verdict)
                if fault:
                    thrown_out[fault] += 1
                    continue
                query_id = f"made-{query_digest(question.text)}"
                queries[query_id] = question.text
                first, second = judgment.answering(verdict), again.get(question, ())
                answering = dict.fromkeys((question.doc_id, *(doc_id for doc_id in first if doc_id in second)))
                good[query_id] = tuple(twin for doc_id in answering for twin in self._twins[self._corpus[doc_id]])
                near_miss = judgment.near_miss(question, {*first, *second})
                if near_miss:
                    bad[query_id] = (near_miss,)
                kinds[question.kind] += 1
        return RetrievalDataset(queries, self._corpus, good, bad), kinds


def _await_all(futures: Collection[Future[None]]) -> None:
    # In short turns: Python may miss a Ctrl-C that comes just before it begins to wait for as long as it takes.
    while wait(futures, timeout=_LONGEST_DEAFNESS).not_done:
        pass


def _small_differences(text: str) -> frozenset[str]:
    """Take what makes another question of the same words: version 4 and 5, plan A and B, C and R, not and no not."""
    singles = _SINGLE.findall(text[1:])  # whatever it begins with is a capital
    negated = {"not"} if _NEGATION.search(text) else set()
    return frozenset(single.lower() for single in singles if single not in ("a", "I")) | negated


def _ids_by_text(corpus: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    ids = defaultdict(list)
    for doc_id, text in corpus.items():
        ids[text].append(doc_id)
    return {text: tuple(found) for text, found in ids.items()}

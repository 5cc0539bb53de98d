"""A small server of OpenAI's chat protocol on loopback, which answers and, where it is told to, misbehaves first."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..loopback import answering

REFUSED = ("429", "429-dated", "500", "503", "slow")
BROKEN = ("cut", "broken-off", "error-inside", "no-json", "no-choices")
WRONG = ("refusal", "prose", "half-json")
PIECE = 20  # characters of an answer that comes in pieces
REFUSAL = "I'm sorry, I cannot help with that."
_PASSAGE = re.compile(r"Passage:\n(.*)\Z", re.DOTALL)
_LETTERED = re.compile(r"^\[([A-Z])\]\n(.*?)(?=\n\n\[[A-Z]\]\n|\n\nQuestions:)", re.DOTALL | re.MULTILINE)
_QUESTION = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE)


class ChatServer(ThreadingHTTPServer):
    """Makes the questions "Where is <first word>?" and judges them by that word.

    Args:
        faults: What goes wrong, in turn, before each distinct prompt is answered.
        status: HTTP status instead of an answer, for all prompts.

    Attributes:
        refusal: The body that goes with another status than 200.
        answer_always: The body of every answer, if it is not empty.
        location: Where it says that it has moved to.
        ends_with_done: Whether an answer in pieces ends with [DONE] and tells no reason for its end.
        usage: What each answer says that it took, in tokens.
        never: A word; prompts with it are refused for ever.
        stumbles_over: A word; asked for questions to a passage with it, it answers with HTTP 500 for ever.
        unknown: A field of a request -> what it says to refuse it with.
        whole: Whether answers come whole even where they are asked for in pieces.
        endless: A word; what it writes of a passage with it ends where it must, or when nobody listens.
        under_way: Requests that were under way as each one came, itself included.
        tries: Prompt -> requests.
        answered: Prompt -> answers.
        keys: Authorization headers that came.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, faults: Sequence[str] = (), status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = tuple(faults)
        self.status = status
        self.refusal = "{}"
        self.usage = {"prompt_tokens": 100, "completion_tokens": 10}
        self.never = self.stumbles_over = self.endless = "\0"
        self.unknown: dict[str, str] = {}
        self.whole = self.ends_with_done = False
        self.answer_always = self.location = ""
        self.at_once = 0
        self.under_way: list[int] = []
        self.writes_for_ever = threading.Event()  # set when it began to
        self.unheard = threading.Event()  # set when a client left in the midst of an answer
        self.tries: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients hang up on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.at_once += 1
            self.server.under_way.append(self.server.at_once)
        try:
            self.answer(request)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def answer(self, request: Mapping[str, Any]) -> None:
        prompt = request["messages"][0]["content"]
        with self.server.lock:
            number = self.server.tries[prompt]
            self.server.tries[prompt] += 1
            self.server.keys.add(self.headers.get("Authorization", ""))
        passage = _PASSAGE.search(prompt)
        unknown = [said for field, said in self.server.unknown.items() if field in request]
        if unknown:
            self.reply(json.dumps({"error": {"message": unknown[0]}}), status=400)
        elif self.server.status != 200:
            moved = {"Location": self.server.location} if self.server.location else None
            self.reply(self.server.refusal, status=self.server.status, headers=moved)
        elif self.server.answer_always:
            self.reply(self.server.answer_always)
        elif passage and self.server.stumbles_over in passage[1]:
            self.misbehave("500")
        elif self.server.never in prompt:
            self.misbehave("prose")
        elif number < len(self.server.faults):
            self.misbehave(self.server.faults[number])
        elif passage and self.server.endless in passage[1]:
            self.write_for_ever(request["max_tokens"])
        else:
            self.answer_well(prompt, in_pieces=request.get("stream", False) and not self.server.whole)

    def answer_well(self, prompt: str, *, in_pieces: bool) -> None:
        with self.server.lock:
            self.server.answered[prompt] += 1
        text = json.dumps(answer_to(prompt))
        if not in_pieces:
            self.reply(completion(text, self.server.usage))
            return
        self.begin_pieces()
        for start in range(0, len(text), PIECE):
            self.piece(text[start : start + PIECE])
        if not self.server.ends_with_done:
            self.piece("", finished="stop")
        self.event({"choices": [], "usage": self.server.usage})
        self.end_pieces()

    def write_for_ever(self, longest: int) -> None:
        self.begin_pieces()
        self.server.writes_for_ever.set()
        try:
            for _ in range(longest):
                self.piece("and so on ")
        except OSError:
            self.server.unheard.set()
            self.close_connection = True
            return
        self.piece("", finished="length")
        self.end_pieces()

    def begin_pieces(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": a comment\n\n")

    def piece(self, text: str, finished: str | None = None) -> None:
        self.event({"choices": [{"delta": {"content": text}, "finish_reason": finished}]})

    def event(self, content: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def end_pieces(self) -> None:
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def misbehave(self, fault: str) -> None:
        if fault == "slow":
            self.rfile.read(1)  # until the client has had enough and hangs up
        if fault in ("slow", "cut"):
            self.close_connection = True
        status, body, headers = {
            "broken-off": (200, "data: " + completion(None) + "\n\n", {"Content-Type": "text/event-stream"}),
            "error-inside": (200, 'data: {"error": "no memory for sk-1"}\n\n', {"Content-Type": "text/event-stream"}),
            "429": (429, "{}", {"Retry-After": "0.02"}),
            "429-dated": (429, "{}", {"Retry-After": self.date_time_string()}),
            "429-for-30-s": (429, "{}", {"Retry-After": "30"}),
            "429-for-an-hour": (429, "{}", {"Retry-After": "3600"}),
            "500": (500, "<h1>no</h1>", {}),
            "503": (503, "", {}),
            "slow": (500, "", {}),
            "cut": (200, completion("{}")[:40], {"Content-Length": "4000"}),
            "no-json": (200, "upstream connect error", {}),
            "no-choices": (200, '{"object": "chat.completion", "choices": []}', {}),
            "refusal": (200, completion(None), {}),
            "prose": (200, completion(REFUSAL), {}),
            "half-json": (200, completion('{"questions": [{"kind": "fact", "quest'), {}),
        }[fault]
        self.reply(body, status=status, headers=headers)

    def reply(self, body: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body.encode()))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def completion(content: str | None, usage: Mapping[str, int] | None = None) -> str:
    return json.dumps(
        {
            "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": usage,
        }
    )


def answer_to(prompt: str) -> dict[str, object]:
    passage = _PASSAGE.search(prompt)
    if passage:
        word = passage[1].split()[0]
        kinds = ("how-to", "fact", "keywords")
        texts = (f"Where is {word}?", f"{word} location", f"What does the text say about {word}?")
        return {"questions": [{"kind": kind, "question": text} for kind, text in zip(kinds, texts, strict=True)]}
    if "\nQuestions:" not in prompt:  # neither questions are asked for nor verdicts: whether it is there
        return {}
    passages = dict(_LETTERED.findall(prompt))
    verdicts = []
    for number, question in _QUESTION.findall(prompt[prompt.rindex("\nQuestions:") :]):
        found = [letter for letter, text in passages.items() if text.split()[0] in question]
        best = found[0] if found else "none"
        verdicts.append({"question": int(number), "best": best, "answered_by": found, "depends_on_passage": False})
    return {"verdicts": verdicts}


@contextmanager
def running(faults: Sequence[str] = (), status: int = 200) -> Iterator[ChatServer]:
    with answering(ChatServer(faults, status)) as server:
        yield server

"""A loopback server of OpenAI's embeddings protocol, with a test's model."""

import json
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from .gateway_process import KEY
from .loopback import JsonHandler, answering

TOO_LONG = "x" * 1000
ENDLESS = "endless"
TOKENS = 3  # reported for each text


class _Handler(JsonHandler):
    """Embeds with the model of `server`, and requires a key.

    It rejects TOO_LONG with 400, always answers "silence" with 429, and answers ENDLESS only after the client has left.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.reply(401, {"error": {"message": "wrong key"}})
        elif TOO_LONG in texts:
            self.reply(400, {"error": {"message": "input is too long"}})
        elif "silence" in texts:
            self.reply(429, {}, {"Retry-After": "600"})
        else:
            (self.server.texts if asked["input"] is texts else self.server.questions).extend(texts)
            if ENDLESS in texts:
                self.rfile.read(1)  # until the client has left
            vectors = self.server.model.embed_documents(texts)
            data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
            self.reply(200, {"data": data, "usage": {"prompt_tokens": TOKENS * len(texts)}})


@contextmanager
def serving(model):
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    running.model, running.texts, running.questions = model, [], []
    running.name = f"http://127.0.0.1:{running.server_address[1]}#org/minilm"
    with answering(running):
        yield running

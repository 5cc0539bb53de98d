"""Questions that a tiny model learns in seconds."""

from docsgpt_embtune.data.dataset import RetrievalDataset

NOUNS = ["log", "worker", "password", "backup", "invoice", "memory", "account", "link", "disk", "customer"]
VERBS = ["kept", "restarted", "reset", "verified", "cancelled", "written", "moved", "lost", "found", "sold"]


def dataset(nouns=NOUNS, verbs=VERBS[:6], chunk="a {noun} is {verb} every night") -> RetrievalDataset:
    pairs = [(noun, verb) for noun in nouns for verb in verbs]
    return RetrievalDataset(
        queries={f"q-{n}-{v}": f"when is the {n} {v}" for n, v in pairs},
        corpus={f"{n}-{v}": chunk.format(noun=n, verb=v) for n, v in pairs},
        relevant_docs={f"q-{n}-{v}": (f"{n}-{v}",) for n, v in pairs},
    )


TRAINING, VALIDATION = dataset(verbs=VERBS[:4]), dataset(verbs=VERBS[4:6])

"""The exception hierarchy.

    EmbtuneError                 caught by the command line: one line on stderr, exit code 2
    ├── DatasetError             a file of questions or chunks cannot be used
    ├── ModelFolderError         a base model or a tuned folder cannot be used
    ├── TrainingError            training cannot start, or cannot produce a usable model
    ├── EvaluationError          two models cannot be compared on these questions
    ├── GenerationError          a language model cannot be queried
    ├── RemoteModelError         a server's model cannot be queried
    │   └── RefusedTextsError    the server refuses these texts only
    └── DeploymentError          DocsGPT's environment, settings or index cannot be read, or changed safely

An invalid function argument raises a plain `ValueError`, one of another type a `TypeError`.
"""


class EmbtuneError(Exception):
    """Base of every error that a user can fix; the message names the value and the remedy."""


class DatasetError(EmbtuneError):
    """A file of questions or chunks cannot be read, is ambiguous, or contradicts itself."""


class ModelFolderError(EmbtuneError):
    """A model is missing, incomplete, changed since it was written, or not servable by DocsGPT."""


class TrainingError(EmbtuneError):
    """Training cannot start on this data, or ended without a usable model."""


class EvaluationError(EmbtuneError):
    """A comparison has no questions left, a model gives unusable vectors, or the vector cache cannot be used."""


class GenerationError(EmbtuneError):
    """A language model's server or a prompt file cannot be used."""


class RemoteModelError(EmbtuneError):
    """A server's model cannot be queried, or is not the model that it should be."""


class RefusedTextsError(RemoteModelError):
    """A server refuses these texts, but accepts others."""


class DeploymentError(EmbtuneError):
    """DocsGPT's environment, settings or stored chunks cannot be read, or cannot be changed safely."""

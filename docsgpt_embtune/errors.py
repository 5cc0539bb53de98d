"""What can go wrong, in one tree.

    EmbtuneError                 caught by the command line: one line on stderr, exit code 2
    ├── DatasetError             a file of questions or chunks cannot be used
    ├── ModelFolderError         a base model or a tuned folder cannot be used
    ├── TrainingError            training cannot start, or cannot end, with a usable model
    ├── EvaluationError          two models cannot be compared on these questions
    ├── GenerationError          a language model cannot be asked
    ├── RemoteModelError         a server's model cannot be asked
    │   └── RefusedTextsError    it answers for other texts
    └── DeploymentError          a host's environment, settings or index cannot be read, or changed safely

A bad argument of a function is a plain `ValueError`.
"""


class EmbtuneError(Exception):
    """Base of every error that a user can mend; the message names the value and the remedy."""


class DatasetError(EmbtuneError):
    """A file of questions or chunks cannot be read, is ambiguous, or contradicts itself."""


class ModelFolderError(EmbtuneError):
    """A model is missing, incomplete, changed since it was written, or not servable by DocsGPT."""


class TrainingError(EmbtuneError):
    """Training cannot start on these data, or ended without a usable model."""


class EvaluationError(EmbtuneError):
    """A comparison has no questions to stand on, a model gives unusable vectors, or the vector cache cannot be used."""


class GenerationError(EmbtuneError):
    """A language model's server cannot be used, or a prompt file cannot."""


class RemoteModelError(EmbtuneError):
    """A server's model cannot be asked, or is another one than was named."""


class RefusedTextsError(RemoteModelError):
    """A server refuses these texts, while it takes others."""


class DeploymentError(EmbtuneError):
    """A host's environment, settings or stored chunks cannot be read, or cannot be changed safely."""

"""Every error raised on purpose: a type, a stable code, the facts as attributes, and what to do about it.

`code` of a GraphError is the string that ComfyUI's clients look for (contract: POST /prompt).
"""

from collections.abc import Mapping

from backend.types import NodeId


class TesseraError(Exception):
    """The root of our own errors. `code` is stable; the text is written for the person who hits it."""

    code = "error"


class GraphError(TesseraError):
    """A prompt that can't run as it is. `node` is None where the whole prompt is meant.

    message: the short sentence, equal for all errors of a code; details: which input, which value;
    extra: ComfyUI's `extra_info`, JSON-ready.
    """

    def __init__(self, node: NodeId | None, message: str, details: str = "", extra: Mapping[str, object] | None = None) -> None:
        self.node, self.message, self.details, self.extra = node, message, details, dict(extra or {})
        super().__init__(f"{message}: {details}" if details else message)


class BadFile(TesseraError):
    """A model, image or latent file that is missing, truncated, or not what it should be."""

    code = "bad_file"

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path}: {problem}. {remedy}")


class UnknownFamily(BadFile):
    """A checkpoint whose tensors match none of the model families."""

    code = "unknown_family"


class UnsupportedOption(TesseraError):
    """A value that is well-formed and that this server can't honour."""

    code = "unsupported_option"

    def __init__(self, name: str, value: object, remedy: str) -> None:
        self.name, self.value, self.remedy = name, value, remedy
        super().__init__(f"{name}={value!r} is not supported. {remedy}")


class Cancelled(TesseraError):
    """The op was cancelled at a step boundary; nothing is wrong with it."""

    code = "cancelled"


class WorkerLost(TesseraError):
    """An op that took down every worker it ran on."""

    code = "worker_lost"

    def __init__(self, op: str, deaths: int, evidence: str) -> None:
        self.op, self.deaths, self.evidence = op, deaths, evidence
        super().__init__(
            f"{op} ended its worker process {deaths} times ({evidence}). It was given up; other jobs go on. "
            "Try a smaller size or batch, or look into the server's log for the cause."
        )

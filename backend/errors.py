"""Every error raised on purpose: a type, a stable code, the facts as attributes, and what to do about it.

`code` of a GraphError is the string that ComfyUI's clients look for (contract: POST /prompt).
"""

from collections.abc import Mapping

from backend.types import NodeId
from backend.values import frozen


class TesseraError(Exception):
    """The root of our own errors. `code` is stable; the text is written for the person who hits it."""

    code = "error"


class GraphError(TesseraError):
    """A prompt that can't run as it is. `node` is None where the whole prompt is meant.

    message: the short sentence, equal for all errors of a code; details: which input, which value;
    extra: ComfyUI's `extra_info`, JSON-ready.
    """

    def __init__(
        self, node: NodeId | None, message: str, details: str = "", extra: Mapping[str, object] | None = None
    ) -> None:
        self.node, self.message, self.details, self.extra = node, message, details, dict(extra or {})
        super().__init__(f"{message}: {details}" if details else message)


class NodeError(GraphError):
    """One thing wrong with one node of a prompt; the rest of the prompt may run."""

    def __init__(
        self, code: str, node: NodeId, message: str, details: str, extra: Mapping[str, object]
    ) -> None:
        self.code = code
        super().__init__(node, message, details, extra)


@frozen
class NodeErrors:
    """What is wrong with one node. dependents: the outputs that can't run because of it."""

    errors: tuple[GraphError, ...]
    dependents: tuple[NodeId, ...]
    class_type: str


class Refused(GraphError):
    """A prompt of which nothing can run. node_errors: what is wrong with which node."""

    code = "invalid_prompt"

    def __init__(
        self,
        node: NodeId | None,
        message: str,
        details: str = "",
        extra: Mapping[str, object] | None = None,
        node_errors: Mapping[NodeId, NodeErrors] | None = None,
    ) -> None:
        self.node_errors = dict(node_errors or {})
        super().__init__(node, message, details, extra)


class NoPrompt(Refused):
    code = "no_prompt"

    def __init__(self) -> None:
        super().__init__(None, "No prompt provided", "No prompt provided")


class InvalidPrompt(Refused):
    """A prompt that is not a graph of known nodes."""

    code = "invalid_prompt"


class NoOutputs(Refused):
    """No output node, or none among the asked-for targets."""

    code = "prompt_no_outputs"

    def __init__(self) -> None:
        super().__init__(None, "Prompt has no outputs")


class OutputsFailed(Refused):
    """Every output node depends on something wrong."""

    code = "prompt_outputs_failed_validation"

    def __init__(self, details: str, node_errors: Mapping[NodeId, NodeErrors]) -> None:
        super().__init__(None, "Prompt outputs failed validation", details, node_errors=node_errors)


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


class Interrupted(TesseraError):
    """Raised inside a node's own code at its next progress report, once its prompt was interrupted.

    A node may raise it by itself: its prompt ends as interrupted then.
    """

    code = "interrupted"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ("The prompt was interrupted.",)))


class OpFailed(TesseraError):
    """An op that a node asked for failed. kind: the type that was raised, `module.Name`."""

    code = "op_failed"

    def __init__(self, kind: str, message: str) -> None:
        self.kind, self.reason = kind, message
        super().__init__(f"{kind}: {message}")


class WorkerLost(TesseraError):
    """An op that took down every worker it ran on."""

    code = "worker_lost"

    def __init__(self, op: str, deaths: int, evidence: str) -> None:
        self.op, self.deaths, self.evidence = op, deaths, evidence
        super().__init__(
            f"{op} ended its worker process {deaths} times ({evidence}). It was given up; other jobs go on. "
            "Try a smaller size or batch, or look into the server's log for the cause."
        )


class OutOfMemory(TesseraError):
    """Work that does not fit a device's memory, even alone. All in bytes; needed 0: only the device knows."""

    code = "out_of_memory"

    def __init__(self, what: str, needed: int, room: int, limit: int | None) -> None:
        self.what, self.needed, self.room, self.limit = what, needed, room, limit
        wants = f"needs about {needed / 2**20:.0f} MB, and" if needed else "did not fit:"
        bound = "" if limit is None else f" (the worker's limit is {limit / 2**20:.0f} MB)"
        super().__init__(
            f"Out of memory: {what} {wants} {room / 2**20:.0f} MB are free{bound}. If it ran before, "
            "look for a batch size or an image size that is larger than you meant. Otherwise use a smaller "
            "batch or image, a tiled VAE node, or a smaller model."
        )


class StoreFailed(TesseraError):
    """The job store could not be opened, read or written."""

    code = "store_failed"

    def __init__(self, what: str, cause: object, remedy: str) -> None:
        self.what, self.cause, self.remedy = what, cause, remedy
        super().__init__(f"{what}: {cause}. {remedy}")


class TooLarge(TesseraError):
    """An op whose weights no device can hold."""

    code = "too_large"

    def __init__(self, op: str, reason: str) -> None:
        self.op, self.reason = op, reason
        super().__init__(
            f"{op} can't run here: {reason}. Use a smaller model or format, or a device with more memory."
        )


class DeadlineMissed(TesseraError):
    """A job that can't be over by the deadline that came with it."""

    code = "deadline_missed"

    def __init__(self, op: str, reason: str) -> None:
        self.op, self.reason = op, reason
        super().__init__(
            f"The deadline can't be met: at {op}, {reason}. Send the prompt again with a larger "
            "`deadline_ms`, or none."
        )


class QueueFull(TesseraError):
    """More unfinished jobs than the server takes. retry_after: seconds until there may be room."""

    code = "queue_full"

    def __init__(self, limit: int, retry_after: int) -> None:
        self.limit, self.retry_after = limit, retry_after
        super().__init__(
            f"The queue is full: {limit} jobs are unfinished. Try again in about {retry_after} s, or start "
            "the server with a larger --max-queue."
        )


class NoDevice(TesseraError):
    """Every worker process ended as soon as it was started."""

    code = "no_device"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"No device is left to run this: the last worker did not start ({reason}). "
            "The server's log has its output; mend the cause and start the server again."
        )


class EngineFault(TesseraError):
    """An exception in the engine's own code, which ends the jobs that it was met with."""

    code = "engine_fault"

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(
            f"The server itself failed here: {type(cause).__name__}: {cause}. That is a fault of the server, "
            "not of the workflow, and its log has the traceback. Queue the prompt again; if it fails again, "
            "please report it with that traceback."
        )

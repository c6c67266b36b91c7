"""The body of POST /prompt, apart from the prompt itself."""

import math

from backend.engine.jobs import Submission
from backend.errors import TesseraError


class BadSubmission(TesseraError):
    """A request that is wrong before its prompt is looked at. code: ComfyUI's `error.type`."""

    def __init__(self, code: str, message: str, details: str = "") -> None:
        self.code, self.message, self.details = code, message, details
        super().__init__(f"{message}: {details}" if details else message)


def read_submission(body: object) -> Submission:
    """Raises: BadSubmission."""
    if not isinstance(body, dict):
        details = f"The request's body must be a JSON object, not {type(body).__name__}"
        raise BadSubmission("no_prompt", "No prompt provided", details)
    if "prompt" not in body:
        raise BadSubmission("no_prompt", "No prompt provided", "No prompt provided")
    extra = body.get("extra_data")
    if extra is not None and not isinstance(extra, dict):
        raise BadSubmission("invalid_request", "`extra_data` must be a JSON object", type(extra).__name__)
    client, id = body.get("client_id"), body.get("prompt_id")
    extra = dict(extra or {}) if client is None else {**(extra or {}), "client_id": client}
    return Submission(
        prompt=body["prompt"],
        id=None if id is None else str(id),
        client=None if client is None else str(client),
        number=_number(body["number"]) if "number" in body else None,
        front=bool(body.get("front")),
        extra=extra,
        targets=_targets(body.get("partial_execution_targets")),
    )


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # what it can't take is told to the client
    except (TypeError, ValueError) as error:
        raise BadSubmission("invalid_request", "`number` must be a number", repr(value)) from error
    if not math.isfinite(number):
        raise BadSubmission("invalid_request", "`number` must be finite", repr(value))
    return number


def _targets(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise BadSubmission(
            "invalid_request", "`partial_execution_targets` must be a list of node ids", repr(value)
        )
    return tuple(str(node) for node in value)

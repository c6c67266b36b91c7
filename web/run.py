"""`tessera run`: one prompt through the same engine, without a port."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from backend.engine import events as ev
from backend.engine.jobs import Submission
from backend.engine.record import JobRecord
from backend.errors import TesseraError
from backend.graph.validate import Refused
from backend.schedule.forecast import Forecast
from backend.settings import Settings
from web.assembly import assemble
from web.packs import load_packs

FAILED = 1


class BadWorkflow(TesseraError):
    """A file that holds no prompt in API format."""

    code = "bad_workflow"

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path}: {problem}. {remedy}")


def read_prompt(path: Path) -> dict[str, object]:
    """A prompt in API format, bare or under `prompt`. Raises: BadWorkflow."""
    remedy = "Give a prompt in API format: in the front end, menu File > Export (API)."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadWorkflow(path, f"can't be read ({error.strerror})", "Check the path.") from error
    except ValueError as error:
        raise BadWorkflow(path, f"is not valid JSON ({error})", remedy) from error
    if isinstance(value, dict) and isinstance(value.get("nodes"), list):
        raise BadWorkflow(path, "is a workflow of the editor, not a prompt", remedy)
    if isinstance(value, dict) and isinstance(value.get("prompt"), dict):
        value = value["prompt"]
    if not isinstance(value, dict) or not all(
        isinstance(n, dict) and "class_type" in n for n in value.values()
    ):
        raise BadWorkflow(path, "holds no prompt: each node needs a `class_type`", remedy)
    return value


class Display:
    """A progress bar, and the end of the job."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.failure: str | None = None
        self._bar: tqdm[NoReturn] | None = None
        self._node: str | None = None

    def expect(self, forecast: Forecast | None) -> None:
        """Say how long it will take, where former jobs tell."""
        if forecast is not None:
            print(
                f"about {forecast.seconds:.0f} s ({forecast.low:.0f} to {forecast.high:.0f})", file=sys.stderr
            )

    def on_event(self, event: ev.Event) -> None:
        match event:
            case ev.StepProgress():
                self._step(event)
            case ev.JobFailed():
                self.failure = (
                    f"node {event.node} ({event.node_type}) failed: {event.type}: {event.message.strip()}"
                )
            case ev.JobInterrupted():
                self.failure = f"interrupted at node {event.node} ({event.node_type})"
            case ev.NodeExecuting(node=None):
                self.close()
                self.ended.set()
            case _:
                pass

    def _step(self, event: ev.StepProgress) -> None:
        if self._bar is None or self._node != event.node:
            self.close()
            self._bar, self._node = tqdm(total=event.max, desc=f"node {event.node}"), event.node
        self._bar.update(event.value - self._bar.n)

    def close(self) -> None:
        """Finish the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


async def run(settings: Settings, path: Path) -> int:
    """Run the prompt of a file and print what it saved. Returns: the exit status.

    Raises: BadWorkflow, FolderInUse, BadFile, StoreFailed.
    """
    prompt, display = read_prompt(path), Display()
    assembly = assemble(settings, keep_jobs=False)
    await load_packs(assembly)
    await assembly.engine.start()
    assembly.engine.subscribe(display.on_event)
    assembly.start_devices()
    try:
        job = await assembly.engine.submit(Submission(prompt=prompt))
        display.expect(assembly.engine.forecasts().get(job.id))
        await display.ended.wait()
        record = await assembly.store.history_one(job.id)
        for place, subfolder, name in () if record is None else saved(record):
            print(os.path.join(assembly.storage.resolve(place, subfolder, name)))
    except Refused as refusal:
        display.failure = "\n".join(_reasons(refusal))
    finally:
        display.close()
        await assembly.close()
    if display.failure is None:
        return 0
    print(f"tessera: {display.failure}", file=sys.stderr)
    return FAILED


def saved(record: JobRecord) -> Iterator[tuple[str, str, str]]:
    """(type, subfolder, name) of every file that a job shows."""
    for ui in record.outputs.values():
        for items in ui.values() if isinstance(ui, Mapping) else ():
            for item in items if isinstance(items, (list, tuple)) else ():
                if isinstance(item, Mapping) and "filename" in item:
                    yield (
                        str(item.get("type", "output")),
                        str(item.get("subfolder", "")),
                        str(item["filename"]),
                    )


def _reasons(refusal: Refused) -> Iterator[str]:
    yield str(refusal)
    for node, found in refusal.node_errors.items():
        for error in found.errors:
            yield f"  node {node} ({found.class_type}): {error}"

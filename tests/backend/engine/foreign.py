"""Probe nodes such as third-party packs have, and a bench that runs prompts of them to their end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.calling import current
from backend.engine import events as ev
from backend.engine.clock import SystemClock
from backend.engine.jobs import Submission
from backend.engine.loop import Engine, Limits
from backend.engine.record import JobRecord
from backend.engine.results import Results
from backend.engine.store import Store
from backend.errors import Interrupted
from backend.node import InputSpec, NodeSpec, OutputSpec, Result
from backend.registry import Registry
from backend.settings import Cache
from backend.types import Blocked
from backend.worker.host import Host

Prompt = Mapping[str, Mapping[str, object]]


def n(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}


LAZY = {
    "1": n("Int", v=1),
    "2": n("Int", v=2),
    "3": n("Lazy", cond=True, t=["1", 0], f=["2", 0]),
    "4": n("Echo", a=["3", 0]),
}


def an_expansion(cycle: bool = False) -> dict[str, dict[str, object]]:
    return {"7": n("Expand", v=2, cycle=cycle), "8": n("Echo", a=["7", 0])}


def an_input(name: str, type: str = "*", **more: Any) -> InputSpec:
    options = {"lazy": True} if more.get("lazy") else {}
    return InputSpec(name, type, options, **more)


def foreign(
    name: str,
    function: Callable[..., object],
    inputs: Sequence[InputSpec] = (),
    outputs: Sequence[str] = ("*",),
    lists: Sequence[int] = (),
    **more: Any,
) -> NodeSpec:
    """A spec as the adapters of third-party classes make them."""
    made = tuple(OutputSpec(type, type, i in lists) for i, type in enumerate(outputs))
    base = {"kind": "value", "category": "probes", "serial": True, "dynamic": True}
    return NodeSpec(name=name, function=function, inputs=tuple(inputs), outputs=made, **{**base, **more})


def echo(a: object, b: object = None) -> Result:
    return Result((a,), {"v": [f"{a!r}|{b!r}"]})


def expand(v: int, cycle: bool, unique_id: str) -> Result:
    inner = {
        f"{unique_id}.0.0.1": n("Int", v=v),
        f"{unique_id}.0.0.2": n("Echo", a=[f"{unique_id}.0.0.1", 0]),
    }
    if cycle:
        inner[f"{unique_id}.0.0.3"] = n("Echo", a=[f"{unique_id}.0.0.2", 0])
        inner[f"{unique_id}.0.0.2"] = n("Echo", a=[f"{unique_id}.0.0.3", 0])
    return Result(([f"{unique_id}.0.0.2", 0],), expand=inner)


async def sleep(v: int, delay: float) -> int:
    await asyncio.sleep(delay)
    return v


def lazily(cond: bool, t: object = None, f: object = None) -> list[str]:
    return [name for name, value, wanted in (("t", t, cond), ("f", f, not cond)) if wanted and value is None]


def steps(total: int) -> int:
    call = current()
    assert call is not None
    for i in range(total):
        call.line.progress(i + 1, total)
    return total


def endless() -> None:
    call = current()
    assert call is not None
    while True:
        call.line.check()


def give_up() -> None:
    raise Interrupted


AB = (an_input("a"), an_input("b", optional=True))
INT = (an_input("v", "INT"),)
PROBES = (
    foreign("Int", lambda v: v, INT, ["INT"]),
    foreign("List", lambda n: Result((list(range(n)),)), [an_input("n", "INT")], ["INT"], [0]),
    foreign("Echo", echo, AB, output_node=True),
    foreign("EchoList", echo, AB, output_node=True, input_is_list=True),
    foreign("Add", lambda a, b: a + b, (an_input("a", "INT"), an_input("b", "INT")), ["INT"]),
    foreign(
        "Lazy",
        lambda cond, t=None, f=None: t if cond else f,
        (an_input("cond"), an_input("t", lazy=True), an_input("f", lazy=True)),
        ["INT"],
        check_lazy=lazily,
    ),
    foreign(
        "Expand", expand, (*INT, an_input("cycle", "BOOLEAN")), ["INT"], hidden={"unique_id": "UNIQUE_ID"}
    ),
    foreign("Sleep", sleep, (*INT, an_input("delay", "FLOAT")), ["INT"], is_async=True),
    foreign("Block", lambda v, msg: Blocked(msg or None), (*INT, an_input("msg", "STRING")), ["INT"]),
    foreign("Always", lambda v: v, INT, ["INT"], fingerprint=lambda v: float("nan")),
    foreign("Steps", steps, [an_input("total", "INT")], ["INT"]),
    foreign("Endless", endless, output_node=True, outputs=()),
    foreign("GiveUp", give_up, output_node=True, outputs=()),
)


@dataclass
class Bench:
    engine: Engine
    store: Store
    events: list[ev.Event] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: ev.Event) -> None:
        self.events.append(event)
        self.heard.set()
        if isinstance(event, ev.NodeExecuting) and event.node is None:
            self.ended.set()

    async def submit(self, prompt: Prompt, **more: Any) -> str:
        self.events.clear()
        self.ended.clear()
        return (await self.engine.submit(Submission(prompt=prompt, client="c", **more))).id

    async def run(self, prompt: Prompt, **more: Any) -> JobRecord:
        job = await self.submit(prompt, **more)
        async with asyncio.timeout(20):
            await self.ended.wait()
        record = await self.store.history_one(job)  # type: ignore[arg-type]
        assert record is not None
        return record

    async def until(self, wanted: Callable[[ev.Event], bool]) -> None:
        async with asyncio.timeout(10):
            while not any(map(wanted, self.events)):
                self.heard.clear()
                await self.heard.wait()

    @property
    def told(self) -> list[str]:
        """What the client heard, but for progress and the queue."""
        return [line for line in map(told, self.events) if line]


def told(event: ev.Event) -> str:
    """A line of what a client hears; none for what it hears of at every step."""
    match event:
        case ev.NodesCached(nodes=nodes):
            return f"cached {' '.join(nodes)}".rstrip()
        case ev.NodeExecuting(node=None):
            return "end"
        case ev.NodeExecuting(node=node, display_node=shown):
            return f"executing {node}" if node == shown else f"executing {node} on {shown}"
        case ev.NodeExecuted(node=node, ui=ui):
            return f"executed {node} {'null' if ui is None else ui.get('v')}"
        case ev.NodeBlocked(node=node, message=message):
            return f"blocked {node} {message}"
        case ev.JobSucceeded():
            return "success"
        case ev.JobFailed(node=node, type=kind, message=message):
            return f"error {node} {kind}: {message.strip()}"
        case ev.JobInterrupted(node=node):
            return f"interrupted {node}"
    return _said(event)


def _said(event: ev.Event) -> str:
    match event:
        case ev.ClientMessage(type=kind, data=data):
            return f"message {kind} {data}"
        case ev.NodeText(node=node, text=text):
            return f"text {node} {text}"
    return ""


@asynccontextmanager
async def a_bench(folder: Path, *more: NodeSpec, cache: Cache | None = None) -> AsyncIterator[Bench]:
    registry = Registry([*PROBES, *(replace(spec) for spec in more)])
    store = Store.open(folder / "jobs.db")
    results = Results(1 << 30, cache)
    engine = Engine(registry, {}, store, SystemClock(), Limits(), results)
    bench = Bench(engine, store)
    engine.subscribe(bench.take)
    host = Host(registry, {}, engine.report, threads=2)
    await engine.start()
    engine.add_host(host, slots=2)
    try:
        yield bench
    finally:
        await engine.close()
        store.close()

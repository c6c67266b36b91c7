"""Run reference cases through a real server and compare what it saves with what ComfyUI saved."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from safetensors.numpy import load_file, save_file

from tests.parity import later
from tests.parity.direct import workflow
from tests.parity.reference import CACHE, Case, Reference
from tests.serving import Server, error_of, succeeded

Verdict = Literal["pass", "FAIL", "note", "later"]
PACK = Path(__file__).parent / "pack"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table. detail: the errors measured, or what is missing, or why it failed."""

    case: str
    verdict: Verdict
    detail: str
    criterion: str


class Harness:
    """A server on the reference set's model files, started when the first case needs it."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.folder = Path(tempfile.mkdtemp(prefix="tessera-parity-"))  # of its own: runs may go side by side
        self.results = self.folder / "results"
        self.server = Server(self.folder, ("--cpu", "--force-fp32", "--workers", "1"))
        self._classes: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        needed = {m for c in self.reference.cases.values() for m in c.models}
        self.reference.prepare(CACHE / "base", needed - later.MODELS)
        for shared in ("models", "input"):
            (self.folder / shared).symlink_to(CACHE / "base" / shared)
        shutil.copytree(PACK, self.folder / "custom_nodes" / "parity")
        self.results.mkdir()
        self.server.start()
        self._classes = frozenset(self.server.get("/object_info"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()
        shutil.rmtree(self.folder)

    def missing(self, case: Case) -> list[str]:
        """Node classes and models of the case that the server does not have."""
        return sorted(case.classes - self._classes) + [f"model {m}" for m in case.models if m in later.MODELS]

    def run(self, case: Case) -> Outcome:
        """One row of the table. A case that passes although `later.py` excuses it is a FAIL."""
        if missing := self.missing(case):
            return self._row(case, "later", "needs " + ", ".join(missing))
        passed, detail = self._try(case)
        if (reason := later.CASES.get(case.name)) is not None:
            stale = "passes now: take it out of tests/parity/later.py"
            return self._row(case, "FAIL", stale) if passed else self._row(case, "later", f"needs {reason}")
        excused = "environment_dependent" in case.limits
        return self._row(case, "pass" if passed else "note" if excused else "FAIL", detail)

    def _row(self, case: Case, verdict: Verdict, detail: str) -> Outcome:
        return Outcome(case.name, verdict, " ".join(detail.split()), _criterion(case))

    def _try(self, case: Case) -> tuple[bool, str]:
        """Run a case: whether it passed, and the errors measured or what went wrong."""
        prompt = workflow(case.name, case.prompt, self.folder / "models") if case.direct else case.prompt
        status, answer = self.server.post("/prompt", {"prompt": prompt})
        if status != 200:
            return False, f"refused: {_refusal(answer)}"
        entry = self.server.finished(str(answer["prompt_id"]))
        if not succeeded(entry):
            error = error_of(entry)
            return (
                False,
                f"{error['node_type']}: {error['exception_type']}: {error['exception_message'].strip()}",
            )
        self._collect(case, entry)
        passed, notes = self.reference.check(case, self.results)
        return passed, "; ".join(notes)

    def _collect(self, case: Case, entry: dict[str, Any]) -> None:
        """Gather what the case saved, under the names of the golden files."""
        latents = {}
        for path in self.server.outputs(entry, "latents"):
            prefix = re.sub(r"_\d+_\.latent$", "", path.name)
            latents[case.latent_name(f"parity/{prefix}")] = load_file(path)["latent_tensor"]
        if latents:
            save_file(latents, self.results / f"{case.name}.safetensors")
        for i, path in enumerate(self.server.outputs(entry)):
            name = f"{case.name}.{i}.png" if i else f"{case.name}.png"
            shutil.copyfile(path, self.results / name)


def run_all(reference: Reference, only: str = "") -> Iterator[Outcome]:
    """Every case whose name holds `only`, one after the other, on a server of their own."""
    with Harness(reference) as harness:
        for case in reference.cases.values():
            if only in case.name:
                yield harness.run(case)


def _criterion(case: Case) -> str:
    parts = [f"rel {case.limits['rel']:g}"] if case.limits.get("latents") else []
    if case.limits.get("images"):
        parts.append(f"max {case.limits['png_max']} mean {case.limits['png_mean']:g}")
    return ", ".join(parts)


def _refusal(answer: Any) -> str:
    error = dict(answer.get("error", {})) if isinstance(answer, dict) else {"message": str(answer)}
    nodes = answer.get("node_errors") or {} if isinstance(answer, dict) else {}
    details = [e["details"] for node in nodes.values() for e in node["errors"]]
    return "; ".join([str(error.get("message")), str(error.get("details") or ""), *details])[:500]

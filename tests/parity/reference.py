"""The reference set: workflows, generators of their model files, and what ComfyUI 0.3.64 made of them.

It lies in a folder `shared/parity` beside the checkout, or below the folder that TESSERA_SHARED names.
"""

import filecmp
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "parity"
SHARED = Path(os.environ.get("TESSERA_SHARED", ROOT.parent / "shared"))
ABSENT = (
    f"The parity reference set is missing: {SHARED / 'parity'} does not exist. Put the folder `shared` "
    "beside the checkout, or name it in TESSERA_SHARED; everything else runs without it."
)


@dataclass(frozen=True, slots=True)
class Case:
    """One workflow with recorded results. prompt: API format, or the description of a direct call."""

    name: str
    kind: str
    models: tuple[str, ...]
    prompt: dict[str, Any]
    limits: dict[str, Any]

    @property
    def direct(self) -> bool:
        """Not a workflow: ComfyUI's sampling function was called with given conditionings."""
        return self.prompt.get("format") == "direct-1"

    @property
    def classes(self) -> frozenset[str]:
        return frozenset() if self.direct else frozenset(node["class_type"] for node in self.prompt.values())

    def latent_name(self, prefix: str) -> str:
        """The tensor's name in the result file for a SaveLatent of that prefix."""
        rest = prefix.removeprefix(f"parity/{self.name}").lstrip("-")
        return f"latent_{rest}" if rest else "latent"


@dataclass(frozen=True)
class Reference:
    """The set in a folder."""

    folder: Path

    @cached_property
    def cases(self) -> dict[str, Case]:
        index = json.loads((self.folder / "index.json").read_text())["cases"]
        return {
            name: Case(
                name,
                entry["kind"],
                tuple(entry["models"]),
                json.loads((self.folder / "cases" / f"{name}.json").read_text()),
                entry,
            )
            for name, entry in sorted(index.items())
        }

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads((self.folder / "models.json").read_text()))

    @cached_property
    def compare(self) -> ModuleType:
        return self._module("compare")

    def check(self, case: Case, results: Path) -> tuple[bool, list[str]]:
        """Whether the results pass the case's limits, and the errors found."""
        verdict, notes = self.compare.check(case.name, case.limits, str(self.folder / "golden"), str(results))
        return bool(verdict), list(notes)

    def prepare(self, base: Path, layouts: set[str]) -> None:
        """Inputs and the named model files below `base`; what is there already stays.

        Raises RuntimeError where a made file differs from its recorded digest.
        """
        (base / "input").mkdir(parents=True, exist_ok=True)
        with FileLock(base / "input.lock"):
            for image in (self.folder / "inputs").iterdir():
                copied = base / "input" / image.name
                if not (copied.exists() and filecmp.cmp(image, copied, shallow=False)):
                    shutil.copyfile(image, copied)
        later = []
        for layout in sorted(layouts):
            try:
                self.make_model(base, layout, patience=0)
            except Timeout:  # another process makes it; there is more to do meanwhile
                later.append(layout)
        for layout in later:
            self.make_model(base, layout)

    def make_model(self, base: Path, layout: str, patience: float = -1) -> Path:
        """A model file: made by the first who needs it, in whichever process.

        patience: seconds to wait while another process makes it, -1 for ever. Raises filelock.Timeout.
        """
        facts = self.models[layout]
        path = base / "models" / facts["folder"] / f"{layout}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{layout}.lock", timeout=patience):
            if not path.exists() or path.stat().st_size != facts["bytes"]:
                self._make(layout, path)
        return path

    def _make(self, layout: str, path: Path) -> None:
        facts = self.models[layout]
        print(f"making {path.name}, {facts['bytes'] >> 20} MB", file=sys.stderr, flush=True)
        made = path.with_name(f"{path.name}.part")
        shapes = json.loads((self.folder / "layouts" / f"{layout}.json").read_text())
        self._module("make_checkpoint").make(shapes, str(made), facts["seed"])
        with made.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != facts["sha256"]:
            made.unlink()
            raise RuntimeError(f"{layout}: the generator made {digest}, models.json says {facts['sha256']}")
        made.replace(path)

    def _module(self, name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"parity_{name}", self.folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def find_reference() -> Reference | None:
    """The set, or None where there is none (`ABSENT` says how to get on)."""
    return Reference(SHARED / "parity") if (SHARED / "parity" / "index.json").is_file() else None

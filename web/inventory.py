"""`tessera models`: every model file, the components in it, and who else has them."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from backend.components import Component, ComponentKind, Contents, File
from backend.engine.identities import Identities
from backend.errors import BadFile
from backend.library import Library
from backend.models.identity import VERSION, identify
from backend.settings import Settings
from backend.storage import Storage
from backend.values import frozen

# What a file of a folder is, where it is no container of several components.
ROLES: Mapping[str, ComponentKind] = {
    "checkpoints": "denoiser",
    "diffusion_models": "denoiser",
    "text_encoders": "text_encoder",
    "vae": "vae",
    "vae_approx": "vae",
    "loras": "lora",
    "controlnet": "controlnet",
    "upscale_models": "upscaler",
    "clip_vision": "clip_vision",
    "style_models": "style_model",
    "model_patches": "model_patch",
}
_SHOWN = 10  # digits of an identity in the table


@frozen
class Entry:
    """One model file. name: as `folder/file`; components: largest first, none where `problem` says why."""

    name: str
    file: File
    components: tuple[Component, ...] = ()
    problem: str | None = None


@frozen
class Inventory:
    """All entries; holders: the names of the entries that hold a component, by its kind and digest."""

    entries: tuple[Entry, ...]
    holders: Mapping[tuple[ComponentKind, str], tuple[str, ...]]

    @property
    def saved(self) -> int:
        """Bytes of weights that are there once instead of once per file."""
        sizes = {(c.kind, c.digest): c.nbytes for entry in self.entries for c in entry.components}
        return sum(sizes[key] * (len(names) - 1) for key, names in self.holders.items())

    def others(self, entry: Entry, component: Component) -> list[str]:
        """The other entries with this component."""
        return [n for n in self.holders[component.kind, component.digest] if n != entry.name]


def models(settings: Settings, *, as_json: bool) -> int:
    """Print the table. Reads through what was never read. Returns: the exit status.

    Raises: BadFile for a bad extra_model_paths file; StoreFailed.
    """
    storage = Storage(settings)
    files = list(model_files(storage))
    identities = Identities.open(storage.user / "tessera.db", VERSION)
    try:
        known = identities.known()
        new = sum(file.size for _, _, file in files if file not in known)
        with tqdm(total=new, unit="B", unit_scale=True, desc="reading", disable=not new) as bar:
            library = Library(storage, lambda file: identify(file, bar.update), identities)
            found = inventory(files, library.identify)
    finally:
        identities.close()
    print(json.dumps(as_data(found), indent=2) if as_json else "\n".join(lines(found)))
    for entry in found.entries:
        if entry.problem is not None:
            print(f"tessera: {entry.problem}", file=sys.stderr)
    return 0


def model_files(storage: Storage) -> Iterator[tuple[str, ComponentKind, File]]:
    """(`folder/file`, role, file) of every model file that loaders offer."""
    for folder, role in ROLES.items():
        for name in storage.files(folder):
            yield f"{folder}/{Path(name).as_posix()}", role, storage.file(folder, name)


def inventory(
    files: Sequence[tuple[str, ComponentKind, File]], read: Callable[[File], Contents]
) -> Inventory:
    """What files hold. One that can't be read has an entry that says so."""
    entries: list[Entry] = []
    holders: dict[tuple[ComponentKind, str], list[str]] = defaultdict(list)
    for name, role, file in files:
        try:
            contents = read(file)
        except BadFile as error:
            entries.append(Entry(name, file, problem=str(error)))
            continue
        inside = tuple(c for c in contents.components if c.contained) or (contents.role(role),)
        entries.append(Entry(name, file, tuple(sorted(inside, key=lambda c: -c.nbytes))))
        for component in inside:
            holders[component.kind, component.digest].append(name)
    return Inventory(tuple(entries), {key: tuple(names) for key, names in holders.items()})


def lines(found: Inventory) -> Iterator[str]:
    """The table, for people."""
    if not found.entries:
        yield "No model files. Put a checkpoint into models/checkpoints."
        return
    width = max(len(entry.name) for entry in found.entries)
    for entry in found.entries:
        yield f"{entry.name:{width}}  {_size(entry.file.size)}"
        if entry.problem is not None:
            yield "  can't be read"
        for component in entry.components:
            others = found.others(entry, component)
            shared = f"  also in {', '.join(others)}" if others else ""
            kind = component.kind.replace("_", " ")
            yield f"  {kind:12}  {component.digest[:_SHOWN]}  {_size(component.nbytes)}{shared}"
    count = len(found.holders)
    yield f"{len(found.entries)} files, {count} components; sharing saves {_size(found.saved).strip()}."


def as_data(found: Inventory) -> dict[str, object]:
    """The table, for programs: sizes in bytes, whole identities."""
    return {
        "files": [
            {
                "name": entry.name,
                "path": entry.file.path,
                "size": entry.file.size,
                "problem": entry.problem,
                "components": [
                    {
                        "kind": c.kind,
                        "identity": c.digest,
                        "nbytes": c.nbytes,
                        "also_in": found.others(entry, c),
                    }
                    for c in entry.components
                ],
            }
            for entry in found.entries
        ],
        "components": len(found.holders),
        "saved_bytes": found.saved,
    }


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:8.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:8.2f} MB"

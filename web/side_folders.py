"""What node packs bring for the page beside their code: translations, example workflows and subgraphs.

Read from the custom_nodes folders at each request, so that it needs no pack to be loaded, and a file that is
added is there at the next reload of the page. Source of the folder names: the contract, cli.md.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from backend.settings import Settings
from backend.storage import Storage
from backend.values import frozen
from web.assets import below

EXAMPLES = ("example_workflows", "example", "examples", "workflow", "workflows")
_PARTS = ("nodeDefs", "commands", "settings")  # beside main.json, under their own key
log = logging.getLogger(__name__)


@frozen
class Subgraph:
    """A blueprint. data: the workflow as its file has it, a text."""

    id: str
    name: str
    pack: str
    data: str


def pack_folders(storage: Storage, settings: Settings) -> Iterator[Path]:
    """The folders of the packs that this server may load, by name."""
    allowed = settings.whitelist_custom_nodes
    for home in storage.folders("custom_nodes"):
        for folder in sorted(home.iterdir()) if home.is_dir() else ():
            named = settings.disable_all_custom_nodes and folder.name not in allowed
            if folder.is_dir() and not named and not folder.name.endswith((".disabled", "__pycache__")):
                yield folder


def translations(packs: Iterator[Path]) -> dict[str, object]:
    """Language -> what packs translate into it; a later pack wins where two say different things."""
    found: dict[str, object] = {}
    for pack in packs:
        for folder in sorted(f for f in (pack / "locales").glob("*") if f.is_dir()):
            if told := _of_language(folder):
                found[folder.name] = merged(found.get(folder.name, {}), told)
    return found


def _of_language(folder: Path) -> dict[str, object]:
    parts = {part: _read_object(folder / f"{part}.json") for part in _PARTS}
    return {**_read_object(folder / "main.json"), **{part: told for part, told in parts.items() if told}}


def merged(below: object, above: object) -> object:
    """Two JSON values as one: objects by key, lists one after the other, else `above`."""
    if isinstance(below, dict) and isinstance(above, dict):
        both = {key: merged(below[key], above[key]) for key in above if key in below}
        return {**below, **above, **both}
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *above]
    return above


def examples(packs: Iterator[Path]) -> dict[str, list[str]]:
    """Pack -> the names of its example workflows; packs without any are left out."""
    found: dict[str, list[str]] = {}
    for pack in packs:
        names = [path.stem for folder in EXAMPLES for path in sorted((pack / folder).glob("*.json"))]
        if names:
            found.setdefault(pack.name, []).extend(names)
    return found


def example(packs: Iterator[Path], pack: str, name: str) -> Path | None:
    """A file of a pack's example folders: a workflow, or its thumbnail."""
    for folder in packs:
        if folder.name == pack:
            return next(filter(None, (below(folder / part, name) for part in EXAMPLES)), None)
    return None


def subgraphs(packs: Iterator[Path]) -> Iterator[Subgraph]:
    """Every pack's blueprints. An id stays the same as long as the file keeps its place."""
    for pack in packs:
        for path in sorted((pack / "subgraphs").glob("*.json")):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                log.warning("%s can't be read (%s); its subgraph is left out.", path, error)
                continue
            place = f"{pack.name}/{path.name}"
            yield Subgraph(hashlib.sha256(place.encode()).hexdigest(), path.stem, pack.name, text)


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read (%s); its translations are left out.", path, error)
        return {}
    return value if isinstance(value, dict) else {}

"""Assets: files of the input, output and model folders by name, tag and content, as newer clients list them.

What somebody uploaded, named or tagged is a row of the store; other files are found on disk, under ids that
follow from where they lie. Nothing here waits, or reads a disk or a clock.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal, get_args

from blake3 import blake3

from backend.values import frozen

Json = Mapping[str, object]
AssetSort = Literal["created_at", "name", "updated_at", "size", "last_access_time"]
ASSET_SORTS: tuple[AssetSort, ...] = get_args(AssetSort)
PLACES = ("input", "output")
_NAMES = uuid.UUID("6d1c2f3e-6f0f-5b1a-9a55-5d1f0c9f0f4e")  # of ids that follow from a file's place


@frozen
class Asset:
    """A name for some bytes, which other assets may name too.

    root: "input", "output" or the key of a model folder; file: its path below that, "" where the bytes are
    another asset's. hash: `blake3:<hex>`, None for files that nobody uploaded. created, updated, accessed:
    epoch milliseconds. deleted: it is listed no more, but its bytes are there.
    """

    id: str
    name: str
    root: str = ""
    file: str = ""
    size: int = 0
    created: int = 0
    updated: int = 0
    tags: tuple[str, ...] = ()
    hash: str | None = None
    mime: str | None = None
    metadata: Json = field(default_factory=dict)
    preview: str | None = None
    accessed: int | None = None
    owner: str = ""
    deleted: bool = False

    def row(self) -> dict[str, object]:
        """As JSON, for the store."""
        return asdict(self)


@frozen
class Filter:
    """Which assets a list shows: those with all of `include` and none of `exclude`, whose name contains
    `name` and whose metadata has each value of `metadata` (a list: one of them; None: no such value).
    """

    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    name: str = ""
    metadata: Json = field(default_factory=dict)

    def takes(self, asset: Asset) -> bool:
        tags = set(asset.tags)
        return (
            self.include <= tags
            and not self.exclude & tags
            and self.name.casefold() in asset.name.casefold()
            and all(_has(asset.metadata.get(key), value) for key, value in self.metadata.items())
        )


class Assets:
    """Every asset of the server. rows: what the store holds of them, as `Asset.row` made it."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._kept = {
            asset.id: asset for row in rows for asset in [Asset(**{**row, "tags": tuple(row["tags"])})]
        }

    def take(self, asset: Asset) -> None:
        """An asset is new, or changed."""
        self._kept[asset.id] = asset

    def get(self, id: str, owner: str, found: Mapping[str, Asset]) -> Asset | None:
        """The asset that a user may see under an id. found: what lies on disk (`file_asset`), by id."""
        asset = self._kept.get(id) or found.get(id)
        return None if asset is None or not _seen(asset, owner) else asset

    def listed(self, owner: str, found: Mapping[str, Asset]) -> list[Asset]:
        """All that a user may see. Files that an upload stored are that upload's."""
        held = {(asset.root, asset.file) for asset in self._kept.values()}
        others = (asset for asset in found.values() if (asset.root, asset.file) not in held)
        return [asset for asset in (*self._kept.values(), *others) if _seen(asset, owner)]

    def holder(self, hash: str) -> Asset | None:
        """An asset whose own file has these bytes."""
        return next((a for a in self._kept.values() if a.hash == hash and a.file), None)


def file_asset(root: str, file: str, size: int, modified: int) -> Asset:
    """A file that lies on disk. modified: epoch milliseconds."""
    tags = (root,) if root in PLACES else ("models", f"model_type:{root}")
    name = str(uuid.uuid5(_NAMES, f"{root}/{file}"))
    known: Json = {"filename": file}
    return Asset(name, Path(file).name, root, file, size, modified, modified, tags, metadata=known)


def in_order(assets: Iterable[Asset], by: AssetSort, descending: bool) -> list[Asset]:
    """Sorted, those of one value by id."""
    keys: Mapping[AssetSort, Callable[[Asset], Any]] = {
        "created_at": lambda a: a.created,
        "name": lambda a: a.name,
        "updated_at": lambda a: a.updated,
        "size": lambda a: a.size,
        "last_access_time": lambda a: a.accessed or 0,
    }
    return sorted(assets, key=lambda a: (keys[by](a), a.id), reverse=descending)


def tag_counts(assets: Iterable[Asset], known: Iterable[str] = ()) -> Counter[str]:
    """How many assets have each tag; 0 for `known` ones that none has."""
    counts = Counter(dict.fromkeys(known, 0))
    counts.update(tag for asset in assets for tag in asset.tags)
    return counts


def content_hash(content: bytes) -> str:
    """The name of some bytes."""
    return f"blake3:{blake3(content).hexdigest()}"


def destination(tags: Sequence[str], folders: Iterable[str]) -> str:
    """The root that an upload's tags choose. folders: keys of model folders. Raises: ValueError."""
    roles = [tag for tag in tags if tag in (*PLACES, "models")]
    if len(roles) != 1:
        raise ValueError("The tags must have exactly one of input, output and models: where the file goes.")
    if roles[0] != "models":
        return roles[0]
    kinds = [tag.partition(":")[2] for tag in tags if tag.startswith("model_type:")]
    allowed = [key for key in folders if key not in ("configs", "custom_nodes")]
    if len(kinds) != 1 or kinds[0] not in allowed:
        raise ValueError(
            f"With the tag models there must be exactly one model_type:FOLDER, FOLDER one of {allowed}."
        )
    return kinds[0]


def _seen(asset: Asset, owner: str) -> bool:
    return not asset.deleted and asset.owner in ("", owner)


def _has(held: object, wanted: object) -> bool:
    if isinstance(wanted, list):
        return any(_has(held, one) for one in wanted)
    return held == wanted or (isinstance(held, list) and wanted in held)

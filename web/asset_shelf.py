"""The assets of this server: what the store holds of them, and the files that lie in the folders."""

import asyncio
from dataclasses import replace
from pathlib import Path

from backend.engine.assets import PLACES, Asset, Assets, file_asset
from backend.engine.clock import SystemClock
from backend.engine.store import Store
from backend.errors import BadFile
from backend.storage import Storage
from web.users import write_bytes


class AssetShelf:
    """Assets for the routes. Every change is on disk when its method returns. Use it from the event loop."""

    def __init__(self, store: Store, storage: Storage) -> None:
        self._store, self._storage, self._clock = store, storage, SystemClock()
        self._assets: Assets | None = None
        self._lock = asyncio.Lock()

    async def get(self, id: str, owner: str) -> Asset | None:
        return (await self._ready()).get(id, owner, await self._found())

    async def listed(self, owner: str) -> list[Asset]:
        return (await self._ready()).listed(owner, await self._found())

    async def holder(self, hash: str) -> Asset | None:
        """An asset whose own file has these bytes, and still lies there."""
        asset = (await self._ready()).holder(hash)
        return asset if asset is not None and self._lies_at(asset) is not None else None

    async def path(self, asset: Asset) -> Path | None:
        """Where an asset's bytes are; None where they are gone. Raises: OutsideFolder."""
        holder = asset if asset.file or asset.hash is None else await self.holder(asset.hash)
        return None if holder is None else self._lies_at(holder)

    async def add(self, asset: Asset, content: bytes = b"", ending: str = "") -> tuple[Asset, bool]:
        """Take in an asset with a hash; its times are now. content: stored below its root under its hash,
        unless the same bytes are here already.

        Returns: the asset, and whether its bytes are new.
        """
        async with self._lock:
            now = self._clock.epoch_ms()
            asset = replace(asset, created=now, updated=now)
            if asset.hash is None or await self.holder(asset.hash) is not None:
                return await self._keep(asset), False
            file = asset.hash.partition(":")[2] + ending
            await asyncio.to_thread(write_bytes, self._target(asset.root, file), content)
            known = {**asset.metadata, "filename": file}
            return await self._keep(replace(asset, file=file, metadata=known)), True

    async def change(self, asset: Asset, **fields: object) -> Asset:
        """The asset with other values, changed now."""
        return await self._keep(replace(asset, updated=self._clock.epoch_ms(), **fields))  # type: ignore[arg-type]  # dataclasses.replace can't be typed by name

    async def touch(self, asset: Asset) -> None:
        """Note that its bytes were read."""
        await self._keep(replace(asset, accessed=self._clock.epoch_ms()))

    async def _keep(self, asset: Asset) -> Asset:
        (await self._ready()).take(asset)
        await self._store.keep_asset(asset.id, asset.row())
        return asset

    async def _ready(self) -> Assets:
        if self._assets is None:
            self._assets = Assets(await self._store.assets())
        return self._assets

    async def _found(self) -> dict[str, Asset]:
        return await asyncio.to_thread(self._scan)

    def _scan(self) -> dict[str, Asset]:
        found: dict[str, Asset] = {}
        for root, file, path in self._storage.everything():
            try:
                stat = path.stat()
            except OSError:  # it went away meanwhile
                continue
            asset = file_asset(root, file, stat.st_size, stat.st_mtime_ns // 1_000_000)
            found[asset.id] = asset
        return found

    def _target(self, root: str, file: str) -> Path:
        if root in PLACES:
            return self._storage.resolve(root, "", file)
        return self._storage.folders(root)[0] / file

    def _lies_at(self, asset: Asset) -> Path | None:
        if asset.root in PLACES:
            path = self._storage.resolve(asset.root, "", asset.file)
            return path if path.is_file() else None
        try:
            return self._storage.find(asset.root, asset.file)
        except BadFile:
            return None

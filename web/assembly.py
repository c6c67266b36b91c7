"""Everything a server or a headless run consists of, put together and taken apart again."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psutil

from backend.engine.clock import SystemClock
from backend.engine.fleet import Worker
from backend.engine.identities import Identities
from backend.engine.loop import Engine, Limits
from backend.engine.results import Results
from backend.engine.shelf import Shelf
from backend.engine.store import Store
from backend.errors import TesseraError
from backend.library import Library
from backend.models.identity import VERSION, identify
from backend.registry import Registry
from backend.settings import Settings, visible_gpus, yield_idle_cores
from backend.storage import Storage
from backend.types import DeviceId
from backend.values import frozen
from backend.worker.exchange import sweep, sweep_own
from backend.worker.host import Host, load_torch
from backend.worker.nursery import Nursery
from backend.worker.pool import WorkerProcess, idle_cpu
from backend.worker.process import nurse
from nodes.catalogue import builtin_registry
from web.lock import FolderLock

ROWS = 8  # of one forward pass; a GPU takes more
GPU_ROWS = 32


class FolderInUse(TesseraError):
    """Another server works on the same user folder: two would run each job twice."""

    code = "folder_in_use"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"Another Tessera already uses {folder}. Stop it, or start this one with another "
            "--base-directory or --user-directory."
        )


@frozen
class Assembly:
    """What `assemble` put together. Devices start with `start_devices`."""

    engine: Engine
    registry: Registry
    storage: Storage
    settings: Settings
    store: Store
    host: Host
    lock: FolderLock
    identities: Identities
    services: Mapping[type, object]
    nursery: Nursery

    def start_devices(self) -> None:
        """Start the host's threads and one process per device. Call after the engine's start()."""
        cores = os.cpu_count() or 1
        self.engine.add_host(self.host, slots=max(2, cores))
        yield_idle_cores()
        gpus = visible_gpus(self.settings)
        count = self.settings.workers or max(1, gpus)
        name, rows = ("gpu", GPU_ROWS) if gpus else ("cpu", ROWS)
        for index in range(count):
            id = DeviceId(f"{name}{index}")
            self.engine.add_device(id, self._maker(id, index, count, gpus), slots=1, max_rows=rows)
        self.host.warm()

    def _maker(self, id: DeviceId, index: int, count: int, gpus: int) -> Callable[[], Worker]:
        make = partial(WorkerProcess, id, self.settings, index, self.engine.report, count)
        if not _forks(gpus):
            return make
        return partial(make, start=self.nursery.fork, idle=idle_cpu(self.settings))

    async def close(self) -> None:
        """End every process and leave nothing behind but what is to stay."""
        self.nursery.hang_up()
        await self.engine.close()
        await asyncio.to_thread(self.nursery.stop)
        self.store.close()
        self.identities.close()
        self.storage.empty_temp()
        sweep_own()
        self.lock.release()


def _results(settings: Settings, storage: Storage) -> Results:
    """The cache of finished results as the flags want it."""
    shelf = Shelf(storage.temp / "results", settings.cache_disk) if settings.cache_disk else None
    return Results(settings.cache_bytes, settings.cache, shelf, lambda: psutil.virtual_memory().available)


def early_nursery(settings: Settings) -> Nursery:
    """What workers will be forked from, with torch loaded now and shared. To be called while this process has
    one thread.
    """
    if not _forks(visible_gpus(settings)):
        return Nursery()
    load_torch()
    return Nursery.early(nurse)


def _forks(gpus: int) -> bool:
    """Whether workers are forked: a GPU's driver does not survive it."""
    return sys.platform == "linux" and not gpus


def assemble(settings: Settings, *, keep_jobs: bool = True, nursery: Nursery | None = None) -> Assembly:
    """keep_jobs: in the user folder, for the next start; otherwise in the temp folder, until the end.

    Starts nothing yet.

    Raises: FolderInUse; BadFile for a bad extra_model_paths file; StoreFailed.
    """
    storage = Storage(settings)
    storage.user.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(storage.user / "tessera.lock")
    if not lock.acquire():
        raise FolderInUse(storage.user)
    storage.prepare()
    sweep()
    registry = builtin_registry()
    identities = Identities.open(storage.user / "tessera.db", VERSION)
    library = Library(storage, identify, identities)
    services: dict[type, object] = {Storage: storage, Settings: settings, Library: library}
    store = Store.open((storage.user if keep_jobs else storage.temp) / "tessera.db")
    limits = Limits(
        settings.cache_bytes,
        settings.preview_method,
        settings.preview_size,
        max_queue=settings.max_queue,
        watchdog=settings.watchdog,
        split=settings.split,
    )
    engine = Engine(registry, services, store, SystemClock(), limits, _results(settings, storage))
    host = Host(registry, services, engine.report, threads=max(2, os.cpu_count() or 1))
    nursery = nursery or Nursery()
    return Assembly(engine, registry, storage, settings, store, host, lock, identities, services, nursery)

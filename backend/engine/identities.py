"""What model files hold, remembered over restarts: a table of the job store's database.

It has a connection of its own, so that `tessera models` can use it beside a running server.
"""

import json
import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, Row, create_engine, delete, event, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from backend.components import Component, Contents, File
from backend.engine.tables import IDENTITIES
from backend.errors import StoreFailed

log = logging.getLogger(__name__)


class Identities:
    """Contents by file. Open it with `Identities.open`; safe to use from several threads.

    version: of the rules by which identities are made; those of other rules are forgotten.
    """

    def __init__(self, engine: Engine, version: int) -> None:
        self._engine, self._version = engine, version
        with engine.begin() as connection:
            connection.execute(CreateTable(IDENTITIES, if_not_exists=True))
            connection.execute(delete(IDENTITIES).where(IDENTITIES.c.version != version))

    @classmethod
    def open(cls, where: Path | str, version: int) -> "Identities":
        """A file (SQLite, made where there is none) or a database URL. Raises: StoreFailed."""
        try:
            if isinstance(where, Path):
                where.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(f"sqlite:///{where}" if isinstance(where, Path) else where)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _tune)
            return cls(engine, version)
        except (SQLAlchemyError, OSError, ImportError, ValueError) as error:
            remedy = "Check the path or URL and its rights."
            raise StoreFailed(
                f"The table of model identities in {where} does not open", error, remedy
            ) from error

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def known(self) -> Mapping[File, Contents]:
        """All that is remembered. Raises: StoreFailed."""
        try:
            with self._engine.connect() as connection:
                return dict(_to_value(row) for row in connection.execute(select(IDENTITIES)))
        except (SQLAlchemyError, ValueError, TypeError, LookupError) as error:
            remedy = "Delete the table `identities`: it is made anew."
            raise StoreFailed("The table of model identities can't be read", error, remedy) from error

    def remember(self, file: File, contents: Contents) -> None:
        """Keep what a file holds, in place of what a file of that path held before.

        Where the database refuses, that is logged: the file is read through again after a restart.
        """
        row = {
            "path": file.path,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "inode": str(file.inode),
            "version": self._version,
            "contents": json.dumps(_to_json(contents)),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(IDENTITIES).where(IDENTITIES.c.path == file.path))
                connection.execute(insert(IDENTITIES), row)
        except (SQLAlchemyError, ValueError) as error:  # ValueError: a path that is no text for the driver
            log.warning("The identity of %s can't be kept for the next start: %s", file.path, error)


def _tune(connection: sqlite3.Connection, _: object) -> None:
    """As the job store does: it may have to wait for these commits."""
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=10000")


def _to_json(contents: Contents) -> dict[str, object]:
    components = [[c.kind, c.digest, c.nbytes, c.contained, c.part] for c in contents.components]
    return {
        "digest": contents.digest,
        "nbytes": contents.nbytes,
        "components": components,
        "encoding": contents.encoding,
    }


def _to_value(row: Row[*tuple[object, ...]]) -> tuple[File, Contents]:
    value = json.loads(row.contents)
    components = tuple(Component(*fields) for fields in value["components"])
    file = File(row.path, row.size, row.mtime_ns, int(row.inode))
    return file, Contents(value["digest"], value["nbytes"], components, value["encoding"])

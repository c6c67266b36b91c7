"""Who a request speaks for, and where that user's files lie."""

import json
import os
import re
import tempfile
import uuid
from pathlib import Path
from urllib.parse import unquote

from backend.errors import TesseraError
from backend.storage import OutsideFolder, Storage

DEFAULT = "default"
_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]+")


class UnknownUser(TesseraError):
    """A request without a user that exists, in multi-user mode."""

    code = "unknown_user"

    def __init__(self, user: str) -> None:
        self.user = user
        super().__init__(
            f"There is no user {user!r}. Choose one of GET /users, or make one with POST /users."
        )


class DuplicateUser(TesseraError):
    """A second user of the same name."""

    code = "duplicate_user"


class Users:
    """The users of this server: one, called `default`, unless it was started with --multi-user."""

    def __init__(self, storage: Storage, *, multiple: bool) -> None:
        self.multiple = multiple
        self._root = storage.user
        self._file = storage.user / "users.json"
        self.names = {k: str(v) for k, v in read_dict(self._file).items()} if multiple else {}

    def identify(self, header: str | None) -> str:
        """The user id of a request's `comfy-user` header, which counts in multi-user mode only.

        Raises: UnknownUser.
        """
        if not self.multiple:
            return DEFAULT
        if not header or header not in self.names:
            raise UnknownUser(header or "")
        return header

    def add(self, name: str) -> str:
        """Make a user; returns the id. Raises: DuplicateUser, ValueError for an empty name."""
        name = name.strip()
        if not name:
            raise ValueError("The user's name is empty.")
        if name in self.names.values():
            raise DuplicateUser("Duplicate username.")
        user = f"{_NOT_IN_AN_ID.sub('-', name)}_{uuid.uuid4()}"
        self.names[user] = name
        write_json(self._file, self.names)
        return user

    def folder(self, user: str) -> Path:
        """The root of a user's files, whether it exists or not."""
        return self._root / user

    def path(self, user: str, name: str) -> Path:
        """The path of a file below a user's folder. A `%` left in the name is decoded once more.

        Raises: OutsideFolder where the name leads out of it, through `..`, an absolute path or a link.
        """
        root = self.folder(user)
        name = unquote(name) if "%" in name else name
        path = Path(os.path.normpath(root / name)) if "\0" not in name else root.parent
        if not path.is_relative_to(root) or not path.resolve().is_relative_to(root.resolve()):
            raise OutsideFolder(repr(name), "is outside the user's folder", "Use a name below it.")
        return path

    def settings(self, user: str) -> dict[str, object]:
        """The user's stored settings; {} when there are none."""
        return read_dict(self._settings_file(user))

    def change_settings(self, user: str, changes: dict[str, object]) -> None:
        """Merge changes into the user's settings and store them."""
        write_json(self._settings_file(user), {**self.settings(user), **changes})

    def _settings_file(self, user: str) -> Path:
        return self.folder(user) / "comfy.settings.json"


def read_dict(path: Path) -> dict[str, object]:
    """A JSON object from a file; {} where there is none. Raises: ValueError if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Repair the file, or move it away.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object. Repair the file, or move it away.")
    return value


def write_json(path: Path, value: object) -> None:
    """Replace a file by a JSON value, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=4).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all; makes the folders that are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise

"""Folders: where models lie, what may be read and written, and what the next saved file is called. No torch.

Source of keys, search paths and naming rules: the contract (http.md, cli.md; execution.md, "Saved images").
"""

import difflib
import hashlib
import mimetypes
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

import yaml

from backend.components import File
from backend.errors import BadFile
from backend.settings import Settings
from backend.types import Seconds
from backend.values import frozen

PlaceKind = Literal["input", "output", "temp"]
PLACE_KINDS: tuple[PlaceKind, ...] = get_args(PlaceKind)
WEIGHT_FILES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft", ".gguf"})
ANY_FILE = frozenset[str]()
ALIASES: Mapping[str, str] = {"unet": "diffusion_models", "clip": "text_encoders"}

# Folders below models/ that differ from their key, and the files of keys that don't hold weights.
_SUBFOLDERS: Mapping[str, tuple[str, ...]] = {
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "controlnet": ("controlnet", "t2i_adapter"),
}
_EXTENSIONS: Mapping[str, frozenset[str]] = {
    "configs": frozenset({".yaml"}),
    "diffusers": frozenset({"folder"}),
    "classifiers": frozenset({""}),
    "custom_nodes": ANY_FILE,
}
_KINDS = tuple(
    """
    checkpoints configs loras vae text_encoders diffusion_models clip_vision style_models embeddings diffusers
    vae_approx controlnet gligen upscale_models custom_nodes hypernetworks photomaker classifiers
    model_patches audio_encoders
    """.split()  # noqa: SIM905  # twenty quoted lines say no more
)
# What model-saving nodes write is found again: key -> folder below the output folder.
_SAVED = {
    "checkpoints": "checkpoints",
    "text_encoders": "clip",
    "vae": "vae",
    "diffusion_models": "diffusion_models",
    "loras": "loras",
}
_ANNOTATION = re.compile(r"^(.*?) ?\[(input|output|temp)\]$", re.DOTALL)
EMBEDDING_ENDINGS = (".safetensors", ".pt", ".bin")
_PLAIN = re.compile(r"\w[\w .-]*")  # a name that can lead nowhere
# A file system may stamp two changes with one time: a listing is kept only of folders quiet for this long.
_QUIET: Seconds = 1.0


class OutsideFolder(BadFile):
    """A name that leads out of the folder it belongs to."""

    code = "outside_folder"


@frozen
class Slots:
    """Names for a batch of files to save, held until the reservation ends.

    name: the file name's stem, `%batch_num%` unreplaced; subfolder is relative to the root, "" for the root.
    """

    folder: Path
    subfolder: str
    name: str
    first: int

    def file(self, index: int, extension: str = ".png") -> str:
        """The name of file `index` of the batch: `<name>_<counter:05>_<extension>`."""
        return f"{self.name.replace('%batch_num%', str(index))}_{self.first + index:05}_{extension}"


@frozen
class _Listing:
    names: tuple[str, ...]
    stamps: tuple[tuple[str, int], ...]  # folder, its mtime: as long as all are unchanged, so are the names


class Storage:
    """The server's folders. Safe to use from several threads at once.

    Raises: BadFile if an extra_model_paths file is missing or is not what it should be.
    """

    def __init__(self, settings: Settings, now: Callable[[], Seconds] = time.time) -> None:
        base = settings.base_directory
        self.base = base
        self.models = base / "models"
        self.input = settings.input_directory or base / "input"
        self.output = settings.output_directory or base / "output"
        self.temp = (settings.temp_directory or base) / "temp"
        self.user = settings.user_directory or base / "user"
        self._now = now
        self._lock = threading.Lock()
        # Temporary names differ between servers that share a folder, and from those of an earlier run.
        self.temp_tag = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))
        self._digests: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._listings: dict[tuple[str, str], _Listing] = {}
        self._held: dict[tuple[Path, str], set[int]] = {}  # counters given out whose files may not exist yet
        self._temp_counters: dict[tuple[Path, str], int] = {}
        self._extensions: dict[str, frozenset[str]] = {k: _EXTENSIONS.get(k, WEIGHT_FILES) for k in _KINDS}
        self._folders: dict[str, list[Path]] = {
            kind: [self.models / sub for sub in _SUBFOLDERS.get(kind, (kind,))] for kind in _KINDS
        }
        self._folders["custom_nodes"] = [base / "custom_nodes"]
        for config in settings.extra_model_paths:
            for kind, folder, first in extra_folders(config):
                self.add_folder(kind, folder, first=first)
        for kind, sub in _SAVED.items():
            self.add_folder(kind, self.output / sub)

    # -- folders ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folders that are missing, and empty the temp folder: what is done at the start."""
        for folder in (self.input, self.output, self.user):
            folder.mkdir(parents=True, exist_ok=True)
        for kind in _KINDS:
            home = self.base if kind == "custom_nodes" else self.models
            (home / kind).mkdir(parents=True, exist_ok=True)
        self.empty_temp()

    def empty_temp(self) -> None:
        """Remove what previews left behind: at the start and at the exit."""
        shutil.rmtree(self.temp, ignore_errors=True)
        self.temp.mkdir(parents=True, exist_ok=True)

    def place(self, kind: PlaceKind) -> Path:
        """The root of the input, output or temp folder."""
        return {"input": self.input, "output": self.output, "temp": self.temp}[kind]

    def kinds(self) -> list[str]:
        """The keys of the model folders, without aliases."""
        return list(self._folders)

    def folders(self, kind: str) -> list[Path]:
        """Where files of a kind are looked for, in order. Raises: BadFile for an unknown kind."""
        kind = ALIASES.get(kind, kind)
        if kind not in self._folders:
            raise BadFile(kind, "is no model folder", f"Known folders: {', '.join(sorted(self._folders))}.")
        return list(self._folders[kind])

    def extensions(self, kind: str) -> frozenset[str]:
        """The file name extensions of a kind, lower case with the dot; empty: every file."""
        return self._extensions.get(ALIASES.get(kind, kind), ANY_FILE)

    def add_folder(self, kind: str, folder: Path, *, first: bool = False) -> None:
        """Search one more folder for files of a kind (a new kind takes every file)."""
        kind = ALIASES.get(kind, kind)
        self._extensions.setdefault(kind, ANY_FILE)
        known = self._folders.setdefault(kind, [])
        if folder in known and first:
            known.remove(folder)
        if folder not in known:
            known.insert(0 if first else len(known), folder)

    def set_extensions(self, kind: str, extensions: frozenset[str]) -> None:
        """Say which files of a kind count, lower case with the dot; none: every file."""
        self._extensions[ALIASES.get(kind, kind)] = extensions

    # -- files --------------------------------------------------------------------------------

    def files(self, kind: str) -> list[str]:
        """The names of a kind's files, relative to the folder each was found in, sorted, each once."""
        extensions = self.extensions(kind)
        names: set[str] = set()
        for folder in self.folders(kind):
            for name in self._listed(folder, recursive=True):
                if not extensions or os.path.splitext(name)[1].lower() in extensions:
                    names.add(name)
        return sorted(names)

    def find(self, kind: str, name: str) -> Path:
        """The path of a kind's file. Raises: BadFile if there is none, with the folders and similar names."""
        folders = self.folders(kind)
        relative = os.path.relpath(os.path.join("/", name), "/")  # `..` can't climb above the folder
        for folder in folders:
            path = folder / relative
            if "\0" not in name and path.is_file():
                return path
        similar = difflib.get_close_matches(name, self.files(kind), n=3)
        searched = ", ".join(str(f) for f in folders)
        hint = f"Put the file into {folders[0]}."
        if similar:
            hint = f"Did you mean {' or '.join(repr(s) for s in similar)}?"
        raise BadFile(name, f"no such file among the {kind} (searched {searched})", hint)

    def file(self, kind: str, name: str) -> File:
        """Path and identity of a kind's file. Raises: BadFile as `find`."""
        path = self.find(kind, name)
        stat = path.stat()
        return File(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def config(self, name: str) -> Mapping[str, object]:
        """A checkpoint's training configuration. Raises: BadFile where it is missing or no such thing."""
        path = self.find("configs", name)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadFile(str(path), f"it can't be read ({error})", "Give a YAML file.") from error
        if not isinstance(content, Mapping):
            raise BadFile(str(path), "it holds no settings", "Give the configuration of a checkpoint.")
        return content

    def pipelines(self) -> list[str]:
        """The folders of `diffusers` that hold a whole pipeline, in the order they are found."""
        found = [
            os.path.dirname(name) or "."
            for folder in self.folders("diffusers")
            for name in self._listed(folder, recursive=True)
            if os.path.basename(name) == "model_index.json"
        ]
        return list(dict.fromkeys(found))

    def embedding(self, written: str) -> str | None:
        """The file of `embedding:name` in a prompt, with or without its ending; None if there is none."""
        for ending in ("", *EMBEDDING_ENDINGS):
            with suppress(BadFile):
                self.find("embeddings", written + ending)
                return written + ending
        return None

    def input_files(self, content: str | None = None) -> list[str]:
        """Names at the top level of the input folder, sorted. content: only of this MIME class ("image")."""
        names = self._listed(self.input, recursive=False)
        return sorted(n for n in names if content is None or _content(n) == content)

    def everything(self) -> Iterator[tuple[str, str, Path]]:
        """(kind, name, path) of every file of the input and output folder and of every kind of model.

        Links that lead out of the input or output folder are left out.
        """
        places: tuple[PlaceKind, ...] = ("input", "output")
        for place in places:
            for name in self._listed(self.place(place), recursive=True):
                with suppress(OutsideFolder):
                    yield place, name, self.resolve(place, "", name)
        for kind in self.kinds():
            if kind not in ("configs", "custom_nodes"):
                yield from ((kind, name, self.find(kind, name)) for name in self.files(kind))

    def resolve(self, kind: str, subfolder: str, filename: str) -> Path:
        """The path of a file below the input, output or temp folder, whether it exists or not.

        Raises: OutsideFolder where the name leads out of it, by `..`, an absolute path or a symbolic link;
            BadFile for another kind of folder.
        """
        if kind not in PLACE_KINDS:
            raise BadFile(kind, "is no folder to read from", f"Use one of {', '.join(PLACE_KINDS)}.")
        root = self.place(kind)
        return self._inside(root, os.path.join(subfolder, filename), f"the {kind} folder")

    def annotated(self, name: str, default: PlaceKind = "input") -> Path:
        """The path that a loader's widget names: `a.png`, `sub/a.png [output]`. Raises: OutsideFolder."""
        bare, kind = split_annotation(name)
        return self.resolve(kind or default, "", bare)

    def has(self, name: str) -> bool:
        """Whether a loader's widget names a file that exists."""
        try:
            return self.annotated(name).is_file()
        except OutsideFolder:
            return False

    def digest(self, name: str) -> str:
        """What the file named by a loader's widget holds: a hash, kept until the file changes.

        Raises: OutsideFolder; OSError if it can't be read.
        """
        path = self.annotated(name)
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        kept = self._digests.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if stat.st_mtime_ns < (self._now() - _QUIET) * 1e9:
            self._digests[path] = (stamp, digest)
        return digest

    # -- saving -------------------------------------------------------------------------------

    @contextmanager
    def reserve(
        self, kind: PlaceKind, prefix: str, count: int = 1, width: int = 0, height: int = 0
    ) -> Iterator[Slots]:
        """Names for `count` files that no other reservation and no file has, while the block lasts.

        prefix: name, perhaps with folders (made on demand) and `%width%`, `%year%` and the like.
        Raises: OutsideFolder where the prefix leads out of the folder.
        """
        wanted = os.path.normpath(expand_prefix(prefix, width, height, self._now()))
        folder, subfolder = self._folder_of(kind, wanted)
        slots_at = (folder, os.path.normcase(name := os.path.basename(wanted)))
        if not os.path.isdir(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            first = self._highest(kind, *slots_at) + 1
            numbers = set(range(first, first + count))
            self._held.setdefault(slots_at, set()).update(numbers)
            if kind == "temp":
                self._temp_counters[slots_at] = first + count - 1
        try:
            yield Slots(folder, subfolder, name, first)
        finally:
            with self._lock:
                self._held[slots_at] -= numbers
                if not self._held[slots_at]:
                    del self._held[slots_at]

    def _folder_of(self, kind: PlaceKind, wanted: str) -> tuple[Path, str]:
        """The folder of a name below a place, and the same relative to it. Raises: OutsideFolder."""
        root = self.place(kind)
        if _PLAIN.fullmatch(wanted):
            return root, ""
        self._inside(root, wanted, f"the {kind} folder")
        folder = self._inside(root, os.path.dirname(wanted), f"the {kind} folder")
        subfolder = os.path.relpath(folder, root)
        return folder, "" if subfolder == "." else subfolder

    def _highest(self, kind: PlaceKind, folder: Path, name: str) -> int:
        """The highest counter in use. The temp folder is ours alone, so its counters need no listing."""
        if kind == "temp" and (folder, name) in self._temp_counters:
            return self._temp_counters[folder, name]
        # Where `%batch_num%` is left to be filled, any number stands there.
        stem = re.escape(name).replace("%batch_num%", r"\d+")
        pattern = re.compile(stem + r"_(\d+)(?:_|$)")
        counters = (int(m[1]) for f in os.listdir(folder) if (m := pattern.match(os.path.normcase(f))))
        held: set[int] = self._held.get((folder, name), set())
        return max((0, *counters, *held))

    def _inside(self, root: Path, relative: str, folder: str) -> Path:
        if "\0" not in relative and not re.match(r"^[A-Za-z]:[\\/]", relative):
            path = Path(os.path.normpath(os.path.join(root, relative)))
            within = path.is_relative_to(os.path.normpath(root))
            if within and path.resolve().is_relative_to(root.resolve()):
                return path
        raise OutsideFolder(repr(relative), f"is outside {folder}", f"Use a name that stays below {root}.")

    # -- listings -----------------------------------------------------------------------------

    def _listed(self, folder: Path, *, recursive: bool) -> tuple[str, ...]:
        key = (str(folder), "all" if recursive else "top")
        kept = self._listings.get(key)
        if kept is not None and all(_mtime(path) == mtime for path, mtime in kept.stamps):
            return kept.names
        names, stamps = _walk(str(folder)) if recursive else _top(str(folder))
        quiet_since = (self._now() - _QUIET) * 1e9
        if stamps and all(mtime < quiet_since for _, mtime in stamps):
            self._listings[key] = _Listing(names, stamps)
        return names


def split_annotation(name: str) -> tuple[str, PlaceKind | None]:
    """`a.png [output]` -> ("a.png", "output"); a name without such a suffix -> (name, None)."""
    match = _ANNOTATION.match(name)
    if match is None:
        return name, None
    kind: PlaceKind = match[2]  # type: ignore[assignment]  # the expression admits no other
    return match[1], kind


def expand_prefix(prefix: str, width: int, height: int, now: Seconds) -> str:
    """Replace `%width% %height% %year% %month% %day% %hour% %minute% %second%`; local time, two digits."""
    if "%" not in prefix:
        return prefix
    at = time.localtime(now)
    values = {"width": str(width), "height": str(height), "year": str(at.tm_year)}
    for name, number in zip(("month", "day", "hour", "minute", "second"), at[1:6], strict=True):
        values[name] = f"{number:02}"
    return re.sub("%(" + "|".join(values) + ")%", lambda m: values[m[1]], prefix)


def _content(name: str) -> str | None:
    """The MIME class of a file name: image, video, audio ..."""
    if name.lower().endswith(".webp"):  # unknown to some systems' tables
        return "image"
    mime, _ = mimetypes.guess_type(name, strict=False)
    return mime.partition("/")[0] if mime else None


def _mtime(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _top(folder: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    mtime = _mtime(folder)
    if mtime is None:
        return (), ()
    with os.scandir(folder) as entries:
        return tuple(e.name for e in entries if e.is_file()), ((folder, mtime),)


def _walk(folder: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """All files below a folder, links followed, `.git` left out; and the folders that were read."""
    names: list[str] = []
    stamps: list[tuple[str, int]] = []
    seen: set[str] = set()  # real paths: a link to a parent would never end
    for path, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        mtime = _mtime(path)
        if mtime is None or real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [s for s in subfolders if s != ".git"]
        stamps.append((path, mtime))
        below = os.path.relpath(path, folder)
        names.extend(files if below == "." else [os.path.join(below, f) for f in files])
    return tuple(names), tuple(stamps)


def extra_folders(config: Path) -> Iterator[tuple[str, Path, bool]]:
    """The (key, folder, goes first) of an extra_model_paths.yaml. Raises: BadFile."""
    try:
        sections = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadFile(str(config), f"is no readable YAML: {error}", "Correct it, or leave it out.") from error
    if not isinstance(sections, dict):
        raise BadFile(str(config), "has no sections", "Write `name:` and, indented below it, its folders.")
    for title, section in sections.items():
        if not isinstance(section, dict | None):
            raise BadFile(str(config), f"section {title!r} has no keys", "Write `<folder>: <path>` lines.")
        yield from _section_folders(section or {}, config.parent.absolute())


def _section_folders(section: Mapping[object, object], home: Path) -> Iterator[tuple[str, Path, bool]]:
    if base := section.get("base_path"):
        home = home / os.path.expandvars(os.path.expanduser(str(base)))
    for kind in (key for key in section if key not in ("base_path", "is_default")):
        for line in str(section[kind] or "").splitlines():
            if line.strip():
                folder = Path(os.path.normpath(home / line.strip()))
                yield str(kind), folder, bool(section.get("is_default"))

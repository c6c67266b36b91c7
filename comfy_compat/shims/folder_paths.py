"""ComfyUI's `folder_paths` over the server's `Storage`.

`folder_names_and_paths` is the plain dict that packs read and edit; `Storage` is told of what they add.
"""

import logging
import mimetypes
import os
import time
from pathlib import Path

from backend.storage import ALIASES, WEIGHT_FILES, expand_prefix

_storage = bridge.storage

base_path = str(_storage.base)
__file__ = os.path.join(base_path, "folder_paths.py")  # packs take its folder for ComfyUI's
models_dir = str(_storage.models)
output_directory = str(_storage.output)
temp_directory = str(_storage.temp)
input_directory = str(_storage.input)
user_directory = str(_storage.user)
supported_pt_extensions = set(WEIGHT_FILES)
filename_list_cache = {}
extension_mimetypes_cache = {"webp": "image", "fbx": "model"}


def _extensions_of(kind):
    own = _storage.extensions(kind)
    return supported_pt_extensions if own == WEIGHT_FILES else set(own)


folder_names_and_paths = {
    kind: ([str(folder) for folder in _storage.folders(kind)], _extensions_of(kind))
    for kind in _storage.kinds()
}


class CacheHelper:
    """Kept for packs that enter it; the server's own listing cache needs no help."""

    active = False

    def get(self, key, default=None):
        return default

    def set(self, key, value):
        return None

    def clear(self):
        return None

    def __enter__(self):
        self.active = True
        return self

    def __exit__(self, *exc):
        self.active = False


cache_helper = CacheHelper()


def map_legacy(folder_name):
    """`unet` and `clip` are older names."""
    return ALIASES.get(folder_name, folder_name)


def sync_storage():
    """Tell the server of folders and kinds that packs put into `folder_names_and_paths`."""
    for kind, entry in list(folder_names_and_paths.items()):
        folders, extensions = entry[0], entry[1]
        for folder in folders:
            _storage.add_folder(kind, Path(os.path.abspath(folder)))
        _storage.set_extensions(kind, frozenset(str(e).lower() for e in extensions))


def _set(name, value):
    globals()[name] = value


def set_output_directory(output_dir):
    _set("output_directory", output_dir)


def set_temp_directory(temp_dir):
    _set("temp_directory", temp_dir)


def set_input_directory(input_dir):
    _set("input_directory", input_dir)


def set_user_directory(user_dir):
    _set("user_directory", user_dir)


def get_output_directory():
    return output_directory


def get_temp_directory():
    return temp_directory


def get_input_directory():
    return input_directory


def get_user_directory():
    return user_directory


def get_directory_by_type(type_name):
    """The folder of "input", "output" or "temp"; None for other names."""
    folders = {"output": output_directory, "temp": temp_directory, "input": input_directory}
    return folders.get(type_name)


def filter_files_content_types(files, content_types):
    """The files whose kind by MIME type (image, video, audio, model) is among `content_types`."""
    return [name for name in files if _content(name) in content_types]


def _content(name):
    ending = name.split(".")[-1]
    if ending not in extension_mimetypes_cache:
        mime = mimetypes.guess_type(name, strict=False)[0]
        if mime is None:
            return None
        extension_mimetypes_cache[ending] = mime.split("/")[0]
    return extension_mimetypes_cache[ending]


def annotated_filepath(name):
    """`a.png [output]` -> ("a.png", the output folder); (name, None) without such a suffix."""
    for kind in ("output", "input", "temp"):
        suffix = f"[{kind}]"
        if name.endswith(suffix):
            return name[: -len(suffix) - 1], get_directory_by_type(kind)
    return name, None


def get_annotated_filepath(name, default_dir=None):
    """The path an annotated name means; unannotated ones lie in `default_dir`, else the input folder."""
    bare, folder = annotated_filepath(name)
    return os.path.join(folder or default_dir or input_directory, bare)


def exists_annotated_filepath(name):
    return os.path.exists(get_annotated_filepath(name))


def add_model_folder_path(folder_name, full_folder_path, is_default=False):
    """Search one more folder for a kind of models; a default goes first."""
    kind = map_legacy(folder_name)
    if kind not in folder_names_and_paths:
        folder_names_and_paths[kind] = ([full_folder_path], set())
    else:
        folders = folder_names_and_paths[kind][0]
        if full_folder_path in folders and is_default:
            folders.remove(full_folder_path)
        if full_folder_path not in folders:
            folders.insert(0 if is_default else len(folders), full_folder_path)
    _storage.add_folder(kind, Path(os.path.abspath(full_folder_path)), first=is_default)


def get_folder_paths(folder_name):
    return list(folder_names_and_paths[map_legacy(folder_name)][0])


def recursive_search(directory, excluded_dir_names=None):
    """(names of all files below a folder, relative to it; the folders that were read, with their mtimes)."""
    names, folders = [], {}
    for path, subfolders, files in os.walk(directory, followlinks=True):
        subfolders[:] = [s for s in subfolders if s not in (excluded_dir_names or ())]
        try:
            folders[path] = os.path.getmtime(path)
        except OSError as error:
            logging.warning("%s can't be read: %s", path, error)
        names += [os.path.relpath(os.path.join(path, name), directory) for name in files]
    return names, folders


def filter_files_extensions(files, extensions):
    """Sorted names of the files with one of the extensions; all of them where there are none."""
    return sorted(n for n in files if not extensions or os.path.splitext(n)[1].lower() in extensions)


def get_filename_list_(folder_name):
    """(names, folders read with their mtimes, when)."""
    entry = folder_names_and_paths[map_legacy(folder_name)]
    names, read = set(), {}
    for folder in entry[0]:
        files, folders = recursive_search(folder, [".git"])
        names.update(filter_files_extensions(files, entry[1]))
        read.update(folders)
    return sorted(names), read, time.perf_counter()


def cached_filename_list_(folder_name):
    """The last listing, while no folder in it has changed; else None."""
    kept = filename_list_cache.get(map_legacy(folder_name))
    if kept is None:
        return None
    try:
        if any(os.path.getmtime(folder) != mtime for folder, mtime in kept[1].items()):
            return None
    except OSError:
        return None
    listed = folder_names_and_paths[map_legacy(folder_name)][0]
    return None if any(os.path.isdir(f) and f not in kept[1] for f in listed) else kept


def get_filename_list(folder_name):
    """Sorted names of a kind's files, relative to the folder each was found in. Raises: KeyError."""
    kind = map_legacy(folder_name)
    kept = cached_filename_list_(kind)
    if kept is None:
        kept = filename_list_cache[kind] = get_filename_list_(kind)
    return list(kept[0])


def get_full_path(folder_name, filename):
    """The path of a kind's file; None where the kind or the file does not exist."""
    entry = folder_names_and_paths.get(map_legacy(folder_name))
    if entry is None:
        return None
    inside = os.path.relpath(os.path.join("/", filename), "/")
    paths = (os.path.join(folder, inside) for folder in entry[0])
    return next((path for path in paths if os.path.isfile(path)), None)


def get_full_path_or_raise(folder_name, filename):
    path = get_full_path(folder_name, filename)
    if path is None:
        raise FileNotFoundError(f"Model in folder '{folder_name}' with filename '{filename}' not found.")
    return path


def get_save_image_path(filename_prefix, output_dir, image_width=0, image_height=0):
    """(folder, name, next counter, subfolder, expanded prefix) for files to be saved.

    Raises: Exception where the prefix leads out of `output_dir`.
    """
    prefix = expand_prefix(filename_prefix, image_width, image_height, time.time())
    wanted = os.path.normpath(prefix)
    subfolder, name = os.path.dirname(wanted), os.path.basename(wanted)
    root, folder = os.path.abspath(output_dir), os.path.join(output_dir, subfolder)
    if os.path.commonpath((root, os.path.abspath(folder))) != root:
        raise Exception(
            f"Saving image outside the output folder is not allowed: {prefix!r} leads to "
            f"{os.path.abspath(folder)}. Use a prefix that stays below {root}."
        )
    os.makedirs(folder, exist_ok=True)
    return folder, name, _next_counter(folder, name), subfolder, prefix


def _next_counter(folder, name):
    start = os.path.normcase(name) + "_"
    numbers = [0]
    for file in os.listdir(folder):
        if os.path.normcase(file).startswith(start):
            digits = file[len(start) :].split("_")[0]
            numbers.append(int(digits) if digits.isdecimal() else 0)
    return max(numbers) + 1


def get_input_subfolders():
    """All folders below the input folder, relative, with forward slashes, sorted."""
    found = []
    for path, _, _ in os.walk(input_directory):
        below = os.path.relpath(path, input_directory)
        if below != ".":
            found.append(below.replace(os.sep, "/"))
    return sorted(found)

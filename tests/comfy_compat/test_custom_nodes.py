"""Packs of node classes, found and loaded from folders."""

import sys
from pathlib import Path

import pytest

from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from comfy_compat.bridge import Bridge
from comfy_compat.custom_nodes import find, load, prestart
from comfy_compat.install import install, uninstall

ECHO = """
class Echo:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "hi"})}}
    RETURN_TYPES = ("STRING",)
    FUNCTION = "echo"
    CATEGORY = "test"
    def echo(self, text):
        return (text,)

NODE_CLASS_MAPPINGS = {"Echo": Echo}
NODE_DISPLAY_NAME_MAPPINGS = {"Echo": "Say it again"}
"""


@pytest.fixture
def bridge(tmp_path):
    settings = Settings(base_directory=tmp_path)
    made = Bridge(Registry(), Storage(settings), settings)
    install(made)
    yield made
    uninstall()
    for name in [n for n in sys.modules if str(tmp_path) in n]:
        del sys.modules[name]
    sys.path.remove(str(tmp_path))


def a_pack(folder: Path, name: str, code: str, **files: str) -> Path:
    pack = folder / "custom_nodes" / name
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(code)
    for file, text in files.items():
        (pack / f"{file}.py").write_text(text)
    return pack


def packs_of(bridge, **settings) -> list[Path]:
    folders = bridge.storage.folders("custom_nodes")
    return list(find(folders, Settings(base_directory=bridge.storage.base, **settings)))


async def test_a_pack_s_nodes_are_registered_under_their_names(bridge, tmp_path):
    a_pack(tmp_path, "echo", ECHO)
    [pack] = await load(packs_of(bridge), bridge)
    assert (pack.name, pack.nodes, pack.error) == ("echo", ("Echo",), None)
    spec = bridge.registry.find("Echo")
    assert (spec.display_name, spec.module, spec.serial) == ("Say it again", "custom_nodes.echo", True)
    assert spec.function(spec.make(), text="ho").values == ("ho",)


async def test_a_single_file_is_a_pack(bridge, tmp_path):
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "one.py").write_text(ECHO)
    [pack] = await load(packs_of(bridge), bridge)
    assert (pack.name, pack.nodes) == ("one", ("Echo",))


async def test_a_pack_that_fails_hurts_no_other_and_keeps_its_traceback(bridge, tmp_path, caplog):
    a_pack(tmp_path, "a_broken", "import does_not_exist_anywhere")
    a_pack(tmp_path, "b_exits", "raise SystemExit(3)")
    a_pack(tmp_path, "c_echo", ECHO)
    broken, exits, echo = await load(packs_of(bridge), bridge)
    assert "does_not_exist_anywhere" in broken.error
    assert "__init__.py" in broken.traceback
    assert exits.error == "SystemExit: 3"
    assert (echo.nodes, echo.error) == (("Echo",), None)
    assert "Cannot import" in caplog.text
    assert "does_not_exist_anywhere" in caplog.text


async def test_a_bad_class_is_left_out_and_named_while_the_others_load(bridge, tmp_path):
    a_pack(tmp_path, "half", ECHO + "NODE_CLASS_MAPPINGS['Bad'] = object\n")
    [pack] = await load(packs_of(bridge), bridge)
    assert pack.nodes == ("Echo",)
    assert pack.error.startswith("Bad: BadClass: Node class Bad has no INPUT_TYPES")


async def test_a_module_without_mappings_is_named_as_such(bridge, tmp_path):
    a_pack(tmp_path, "empty", "")
    [pack] = await load(packs_of(bridge), bridge)
    assert "NODE_CLASS_MAPPINGS" in pack.error


def test_switched_off_and_foreign_entries_are_no_packs(bridge, tmp_path):
    for name in ("on", "off.disabled", "__pycache__"):
        a_pack(tmp_path, name, "")
    (tmp_path / "custom_nodes" / "notes.txt").write_text("no pack")
    assert [path.name for path in packs_of(bridge)] == ["on"]


def test_only_listed_packs_are_loaded_where_all_are_disabled(bridge, tmp_path):
    for name in ("one", "two"):
        a_pack(tmp_path, name, "")
    chosen = packs_of(bridge, disable_all_custom_nodes=True, whitelist_custom_nodes=("two",))
    assert [path.name for path in chosen] == ["two"]
    assert packs_of(bridge, disable_all_custom_nodes=True) == []


async def test_prestartup_scripts_run_before_any_pack_is_imported(bridge, tmp_path):
    trace = "import sys; sys.modules.setdefault('trace_of_packs', []).append('{}')"
    a_pack(tmp_path, "a", trace.format("a"))
    a_pack(tmp_path, "b", trace.format("b"), prestartup_script=trace.format("b first"))
    a_pack(tmp_path, "c", trace.format("c"), prestartup_script="1 / 0")
    paths = packs_of(bridge)
    prestart(paths)
    await load(paths, bridge)
    assert sys.modules.pop("trace_of_packs") == ["b first", "a", "b", "c"]


async def test_classes_that_a_pack_puts_into_comfyuis_mapping_are_nodes_too(bridge, tmp_path):
    a_pack(tmp_path, "other", ECHO + "import nodes\nnodes.NODE_CLASS_MAPPINGS['Mine'] = Echo\n")
    [pack] = await load(packs_of(bridge), bridge)
    assert pack.nodes == ("Echo", "Mine")


async def test_a_project_file_names_scripts_too(bridge, tmp_path):
    pack = a_pack(tmp_path, "scripts", ECHO)
    (pack / "web").mkdir()
    (pack / "pyproject.toml").write_text('[project]\nname = "proj"\n[tool.comfy]\nweb = "web"\n')
    [loaded] = await load(packs_of(bridge), bridge)
    assert loaded.web == {"proj": pack / "web"}


async def test_the_scripts_folder_of_a_pack_is_told(bridge, tmp_path):
    pack = a_pack(tmp_path, "scripts", ECHO + "WEB_DIRECTORY = './js'\n")
    (pack / "js").mkdir()
    [loaded] = await load(packs_of(bridge), bridge)
    assert loaded.web == {"scripts": pack / "js"}

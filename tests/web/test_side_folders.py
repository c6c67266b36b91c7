import json
from pathlib import Path

from backend.settings import Settings
from backend.storage import Storage
from tests.web.conftest import House
from web import side_folders


def a_pack(house_or_base: Path, name: str, files: dict[str, object]) -> None:
    for path, value in files.items():
        target = house_or_base / "custom_nodes" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(value if isinstance(value, str) else json.dumps(value))


async def test_packs_translations_are_merged_by_language(house: House):
    a_pack(house.storage.base, "a", {"locales/en/main.json": {"g": {"x": "1", "l": [1]}}})
    a_pack(
        house.storage.base,
        "b",
        {
            "locales/en/main.json": {"g": {"x": "2", "y": "3", "l": [2]}},
            "locales/en/nodeDefs.json": {"Node": {"display_name": "N"}},
            "locales/de/settings.json": {"s": 1},
            "locales/fr/commands.json": "{ broken",
        },
    )
    assert await house.json("/api/i18n") == {
        "en": {"g": {"x": "2", "y": "3", "l": [1, 2]}, "nodeDefs": {"Node": {"display_name": "N"}}},
        "de": {"settings": {"s": 1}},
    }


async def test_packs_example_workflows_are_listed_and_served(house: House):
    files = {"example_workflows/one.json": {"nodes": []}, "workflows/two.json": {}, "example/one.jpg": "x"}
    a_pack(house.storage.base, "pack", files)
    a_pack(house.storage.base, "none", {"__init__.py": ""})
    assert await house.json("/workflow_templates") == {"pack": ["one", "two"]}
    reply = await house.client.get("/api/workflow_templates/pack/one.json")
    assert (reply.content_type, await reply.json()) == ("application/json", {"nodes": []})
    assert (await house.client.get("/api/workflow_templates/pack/one.jpg")).status == 200
    for path in ("/workflow_templates/pack/one.json", "/api/workflow_templates/pack/three.json"):
        assert (await house.client.get(path)).status == 404
    outside = "/api/workflow_templates/pack/..%2F__init__.py"
    assert (await house.client.get(outside)).status == 404


async def test_packs_subgraphs_come_with_their_workflow_as_a_text(house: House):
    a_pack(house.storage.base, "pack", {"subgraphs/Blur.json": '{"nodes": [1]}'})
    found = await house.json("/api/global_subgraphs")
    ((id, one),) = found.items()
    told = {"source": "custom_node", "name": "Blur", "info": {"node_pack": "custom_nodes.pack"}}
    assert one == {**told, "data": '{"nodes": [1]}'}
    assert await house.json(f"/api/global_subgraphs/{id}") == one
    assert await house.json("/api/global_subgraphs/absent") is None


def test_packs_that_may_not_load_bring_nothing(tmp_path: Path):
    for name in ("one", "two", "three.disabled", "__pycache__"):
        a_pack(tmp_path, name, {"workflow/w.json": {}})
    settings = Settings(tmp_path, disable_all_custom_nodes=True, whitelist_custom_nodes=("two",))
    for chosen, names in ((settings, ["two"]), (Settings(tmp_path), ["one", "two"])):
        packs = side_folders.pack_folders(Storage(chosen), chosen)
        assert list(side_folders.examples(packs)) == names

import logging

import pytest

from tests.web.conftest import House


async def test_the_server_states_its_facts_before_any_device_is_up(house: House):
    stats = await house.json("/system_stats")
    assert set(stats["system"]) == {
        *("os", "ram_total", "ram_free", "comfyui_version", "required_frontend_version"),
        *("installed_templates_version", "required_templates_version", "python_version", "pytorch_version"),
        *("embedded_python", "argv"),
    }
    assert stats["system"]["comfyui_version"] == "0.3.64"
    assert stats["system"]["required_frontend_version"] == "1.58.1"
    assert stats["devices"] == []


async def test_features_equal_the_handshakes(house: House):
    assert await house.json("/features") == {
        "supports_preview_metadata": True,
        "max_upload_size": 100 * 1024 * 1024,
    }


@pytest.mark.parametrize("path", ["/i18n", "/workflow_templates", "/global_subgraphs"])
async def test_what_packs_would_bring_is_empty(house: House, path: str):
    assert await house.json(path) == {}


async def test_an_unknown_subgraph_is_null(house: House):
    assert await house.json("/global_subgraphs/x") is None


async def test_node_classes_describe_themselves(house: House):
    everything = await house.json("/object_info")
    assert list(everything)[:2] == ["Loader", "Text"]
    assert await house.json("/object_info/Show") == {"Show": everything["Show"]}
    assert everything["Show"]["output_node"] is True
    assert await house.json("/object_info/Nothing") == {}


async def test_model_folders_are_named_for_the_missing_models_dialog(house: House):
    paths = await house.json("/internal/folder_paths")
    assert paths["checkpoints"][0] == str(house.storage.models / "checkpoints")


async def test_the_last_log_lines_can_be_read(house: House):
    logger = logging.getLogger("tests.web.system")
    logger.addHandler(house.logs)
    try:
        for n in range(400):
            logger.warning("line %d", n)
    finally:
        logger.removeHandler(house.logs)
    raw = await house.json("/internal/logs/raw")
    assert len(raw["entries"]) == 300
    assert raw["entries"][-1]["m"] == "line 399\n"
    assert set(raw["size"]) == {"cols", "rows"}
    assert (await house.json("/internal/logs")).splitlines()[-1].endswith(" - line 399")


@pytest.mark.parametrize("body", [b"{}", b'{"clientId": 1, "enabled": true}', b'{"clientId": "a"}'])
async def test_a_bad_subscription_is_400(house: House, body: bytes):
    assert (await house.client.patch("/internal/logs/subscribe", data=body)).status == 400

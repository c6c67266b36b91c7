from pathlib import Path

import pytest

from tests.web.conftest import House
from web.assets import Templates, below, cache_headers, content_type


@pytest.mark.parametrize(
    ("path", "status", "policy"),
    [
        ("/assets/index.js", 200, "no-cache"),
        ("/assets/index.js", 404, "no-cache"),
        ("/a.css", 200, "no-cache"),
        ("/templates/index.fr.json", 200, "no-cache"),
        ("/templates/a.json", 200, None),
        ("/templates/a-1.webp", 200, "public, max-age=86400"),
        ("/templates/a-1.webp", 404, "public, max-age=3600"),
        ("/a.PNG", 301, "public, max-age=86400"),
        ("/a.png", 302, "no-cache"),
        ("/a.png", 500, None),
        ("/view", 200, None),
    ],
)
def test_caching_follows_path_and_status(path: str, status: int, policy: str | None):
    assert cache_headers(path, status).get("Cache-Control") == policy


def test_scripts_and_templates_have_their_types():
    assert content_type("a.js") == "application/javascript"
    assert content_type("index.json") == "application/json"
    assert content_type("a.unknown") == "application/octet-stream"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "b/../../a", "a\0", "", "."])
def test_nothing_outside_a_folder_is_served(tmp_path: Path, name: str):
    (tmp_path / "a").write_text("secret")
    (tmp_path / "inner").mkdir()
    assert below(tmp_path / "inner", name) is None


@pytest.fixture
async def fronted(open_house, tmp_path: Path) -> House:
    root = tmp_path / "front"
    (root / "extensions" / "core").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "index.html").write_text("<html>")
    (root / "scripts" / "app.js").write_text("app")
    (root / "extensions" / "core" / "a.js").write_text("core")
    (tmp_path / "secret").write_text("secret")
    return await open_house(front_end_root=root)


async def test_the_chosen_front_end_is_served(fronted: House):
    index = await fronted.client.get("/")
    assert await index.text() == "<html>"
    assert index.headers["Cache-Control"] == "no-cache"
    assert (index.headers["Pragma"], index.headers["Expires"]) == ("no-cache", "0")
    assert await fronted.text("/scripts/app.js") == "app"
    assert await fronted.text("/extensions/core/a.js") == "core"
    assert (await fronted.client.get("/scripts")).status == 403


@pytest.mark.parametrize(
    "path", ["/..%2fsecret", "/%2e%2e/secret", "/scripts/..%2f..%2fsecret", "/%2fetc%2fpasswd"]
)
async def test_no_path_leaves_the_front_end(fronted: House, path: str):
    from yarl import URL

    reply = await fronted.client.get(URL(path, encoded=True))
    assert reply.status == 404


@pytest.mark.parametrize("mount", ["extensions/tessera", "templates", "docs"])
@pytest.mark.parametrize("name", ["..%2f..%2fapp.py", "..%2f__init__.py", "%2fetc%2fpasswd"])
async def test_no_mount_is_left(house: House, mount: str, name: str):
    from yarl import URL

    assert (await house.client.get(URL(f"/{mount}/{name}", encoded=True))).status == 404


async def test_the_page_offers_our_script_and_serves_it(house: House):
    scripts = await house.json("/extensions")
    assert "/extensions/tessera/first_light.js" in scripts
    assert any(s.startswith("/extensions/core/") for s in scripts)
    reply = await house.client.get("/extensions/tessera/first_light.js")
    assert (reply.status, reply.content_type) == (200, "application/javascript")


async def test_the_packaged_front_end_opens(house: House):
    reply = await house.client.get("/")
    assert (reply.status, reply.content_type) == (200, "text/html")
    assert (await house.client.get("/scripts/app.js")).content_type == "application/javascript"


async def test_templates_come_from_their_packages(house: House):
    pytest.importorskip("comfyui_workflow_templates_core")
    pytest.importorskip("comfyui_workflow_templates_json")
    reply = await house.client.get("/templates/index.json")
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert Templates().find("index.json") is not None
    assert Templates().find("absent.json") is None
    picture = await house.client.get("/templates/image_z_image_turbo-1.webp")
    assert (picture.status, picture.content_type) == (200, "image/webp")  # a plain one, or its own
    assert (await house.client.get("/templates/absent-1.webp")).status == 404


async def test_node_help_is_no_page(house: House):
    pytest.importorskip("comfyui_embedded_docs")
    reply = await house.client.get("/docs/KSampler/en.md")
    assert (reply.status, reply.content_type) == (200, "text/markdown")
    assert (await house.client.get("/docs/Nothing/en.md")).status == 404


async def test_without_a_front_end_the_page_says_what_to_do(open_house, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    house = await open_house(front_end_root=tmp_path / "empty")
    reply = await house.client.get("/")
    assert reply.status == 404
    assert "pip install" in await reply.text()

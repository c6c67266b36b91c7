import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.web.conftest import House


def a_png(colour=(200, 10, 10)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(target, "PNG")
    return target.getvalue()


def a_safetensors(path: Path, metadata: dict | None = None) -> Path:
    header = json.dumps({} if metadata is None else {"__metadata__": metadata}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


async def test_folders_and_files_are_listed(house: House):
    loras = house.storage.models / "loras"
    for name in ("b.safetensors", "deep/a.safetensors", "notes.txt"):
        a_safetensors(loras / name)
    assert {"checkpoints", "loras", "text_encoders", "embeddings"} <= set(await house.json("/models"))
    assert await house.json("/models/loras") == ["b.safetensors", "deep/a.safetensors"]
    files = await house.json("/experiment/models/loras")
    assert [(f["name"], f["pathIndex"]) for f in files] == [("b.safetensors", 0), ("deep/a.safetensors", 0)]
    assert set(files[0]) == {"name", "pathIndex", "modified", "created", "size"}
    folders = {f["name"]: f["folders"] for f in await house.json("/experiment/models")}
    assert folders["loras"][0] == str(loras)
    assert not {"configs", "custom_nodes"} & set(folders)


@pytest.mark.parametrize("kind", ["unet", "clip", "nothing"])
async def test_aliases_and_unknown_folders_are_404(house: House, kind: str):
    for path in (f"/models/{kind}", f"/experiment/models/{kind}"):
        reply = await house.client.get(path)
        assert (reply.status, await reply.read()) == (404, b"")


async def test_embeddings_are_named_without_extension(house: House):
    a_safetensors(house.storage.models / "embeddings" / "deep" / "easy.pt")
    assert await house.json("/embeddings") == ["deep/easy"]


async def test_a_header_says_what_its_maker_wrote(house: House):
    a_safetensors(house.storage.models / "loras" / "a.safetensors", {"ss_tag": "x"})
    a_safetensors(house.storage.models / "loras" / "silent.safetensors")
    assert await house.json("/view_metadata/loras?filename=a.safetensors") == {"ss_tag": "x"}
    reply = await house.client.get("/view_metadata/loras?filename=silent.safetensors")
    assert (reply.status, await reply.read()) == (404, b"")


@pytest.mark.parametrize(
    "query",
    [
        "loras?filename=absent.safetensors",
        "loras",
        "nothing?filename=a",
        "loras?filename=../../secret.safetensors",
    ],
)
async def test_metadata_of_nothing_is_404(house: House, query: str):
    a_safetensors(house.storage.base / "secret.safetensors", {"secret": "x"})
    assert (await house.client.get(f"/view_metadata/{query}")).status == 404


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff" * 64, (5).to_bytes(8, "little") + b"{{{{{"])
async def test_a_damaged_file_has_no_metadata(house: House, content: bytes):
    (house.storage.models / "loras" / "bad.safetensors").write_bytes(content)
    assert (await house.client.get("/view_metadata/loras?filename=bad.safetensors")).status == 404


async def test_a_models_picture_lies_beside_it_or_in_it(house: House):
    loras = house.storage.models / "loras"
    a_safetensors(loras / "deep" / "beside.safetensors")
    (loras / "deep" / "beside.preview.png").write_bytes(a_png())
    cover = json.dumps([base64.b64encode(a_png()).decode()])
    a_safetensors(loras / "inside.safetensors", {"ssmd_cover_images": cover})
    # The page asks with an ending of its own.
    for name in ("deep/beside.safetensors", "inside.safetensors", "deep/beside.webp", "inside.webp"):
        reply = await house.client.get(f"/experiment/models/preview/loras/0/{name}")
        assert (reply.status, reply.content_type) == (200, "image/webp")
        assert Image.open(io.BytesIO(await reply.read())).format == "WEBP"


@pytest.mark.parametrize(
    "path",
    ["loras/0/plain.safetensors", "loras/0/absent", "loras/99/plain.safetensors", "nothing/0/a", "loras/x/a"],
)
async def test_a_model_without_a_picture_is_404(house: House, path: str):
    a_safetensors(house.storage.models / "loras" / "plain.safetensors", {"ssmd_cover_images": "[1]"})
    assert (await house.client.get(f"/experiment/models/preview/{path}")).status == 404


async def test_no_picture_outside_the_folder_is_shown(house: House):
    from yarl import URL

    a_safetensors(house.storage.base / "secret.safetensors")
    (house.storage.base / "secret.png").write_bytes(a_png())
    path = "/experiment/models/preview/loras/0/..%2f..%2fsecret.safetensors"
    assert (await house.client.get(URL(path, encoded=True))).status == 404

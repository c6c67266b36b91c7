import json

import pytest
from yarl import URL

from tests.web.conftest import House, recorded

TIMES = ("modified", "created")


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: "<MTIME>" if k in TIMES else without_times(v) for k, v in value.items()}
    return [without_times(v) for v in value] if isinstance(value, list) else value


async def test_users_settings_and_files_answer_as_recorded(house: House):
    for case in recorded("userdata_settings")["cases"]:
        url = URL(case["path"], encoded=True)
        reply = await house.client.request(case["method"], url, data=case.get("body"))
        assert reply.status == case["status"], case
        body = await reply.text()
        if case["response"] == "":
            assert body == "", case
        elif reply.content_type == "application/json":
            assert without_times(json.loads(body)) == case["response"], case
        else:
            assert body == case["response"], case


async def test_a_name_is_one_part_of_the_path(house: House):
    reply = await house.client.post(URL("/api/userdata/workflows%2Fdeep%2Fa.json", encoded=True), data=b"{}")
    assert await reply.json() == "workflows/deep/a.json"
    assert (await house.client.get("/userdata/workflows/deep/a.json")).status == 404


async def test_a_name_encoded_twice_is_decoded_twice(house: House):
    reply = await house.client.post(URL("/userdata/workflows%252Fa.json", encoded=True), data=b"{}")
    assert await reply.json() == "workflows/a.json"


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fx", "%2Fetc%2Fpasswd", "a%2F..%2F..%2Fother%2Fx", "..%252F..%252Fx"]
)
async def test_no_name_leaves_the_users_folder(house: House, name: str):
    url = URL(f"/userdata/{name}", encoded=True)
    for method in ("GET", "POST", "DELETE"):
        assert (await house.client.request(method, url)).status == 403
    move = URL(f"/userdata/{name}/move/b.json", encoded=True)
    assert (await house.client.post(move)).status == 403


async def test_a_move_does_not_leave_the_users_folder(house: House):
    await house.client.post(URL("/userdata/a.json", encoded=True), data=b"{}")
    reply = await house.client.post(URL("/userdata/a.json/move/..%2F..%2Fb.json", encoded=True))
    assert reply.status == 403
    assert (house.storage.user / "default" / "a.json").is_file()


async def test_a_link_out_of_the_folder_is_not_followed(house: House, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = house.storage.user / "default"
    folder.mkdir(parents=True)
    (folder / "link.txt").symlink_to(secret)
    assert (await house.client.get("/userdata/link.txt")).status == 403


async def test_a_file_above_the_body_limit_is_413(open_house):
    house = await open_house(max_upload_size=0.001)
    reply = await house.client.post("/userdata/a.json", data=b"x" * 2000)
    assert reply.status == 413
    assert not (house.storage.user / "default" / "a.json").exists()


async def test_folders_come_first_in_a_tree(house: House):
    for name in ("a.json", "deep%2Fb.json"):
        await house.client.post(URL(f"/userdata/{name}", encoded=True), data=b"{}")
    tree = await house.json("/v2/userdata")
    assert [(e["path"], e["type"]) for e in tree] == [
        ("deep", "directory"),
        ("a.json", "file"),
        ("deep/b.json", "file"),
    ]


async def test_the_user_header_is_ignored_with_one_user(house: House):
    headers = {"comfy-user": "someone"}
    assert (await house.client.get("/settings", headers=headers)).status == 200


async def test_every_user_has_settings_and_files_of_their_own(open_house):
    house = await open_house(multi_user=True)
    ids = []
    for name in ("Ann Lee", "Bob"):
        reply = await house.client.post("/users", json={"username": name})
        ids.append(await reply.json())
    ann, bob = ({"comfy-user": user} for user in ids)
    assert ids[0].startswith("Ann-Lee_")
    await house.client.post("/settings/Theme", data="1", headers=ann)
    await house.client.post("/userdata/a.json", data=b"{}", headers=ann)

    assert (await house.json("/users"))["users"] == {ids[0]: "Ann Lee", ids[1]: "Bob"}
    assert await (await house.client.get("/settings", headers=ann)).json() == {"Theme": 1}
    assert await (await house.client.get("/settings", headers=bob)).json() == {}
    assert (await house.client.get("/userdata/a.json", headers=bob)).status == 404


@pytest.mark.parametrize("headers", [{}, {"comfy-user": "nobody"}, {"comfy-user": "../x"}])
async def test_a_request_without_a_known_user_is_401(open_house, headers: dict):
    house = await open_house(multi_user=True)
    assert (await house.client.get("/settings", headers=headers)).status == 401
    assert (await house.client.get("/userdata/a.json", headers=headers)).status == 401


async def test_a_second_user_of_a_name_is_refused(open_house):
    house = await open_house(multi_user=True)
    await house.client.post("/users", json={"username": "Ann"})
    reply = await house.client.post("/users", json={"username": "Ann"})
    assert (reply.status, await reply.json()) == (400, {"error": "Duplicate username."})


async def test_damaged_settings_are_not_overwritten(house: House):
    path = house.storage.user / "default" / "comfy.settings.json"
    path.parent.mkdir(parents=True)
    path.write_text("{ broken")
    reply = await house.client.post("/settings/A", data="1")
    assert reply.status == 500
    assert "comfy.settings.json" in await reply.text()
    assert path.read_text() == "{ broken"


@pytest.mark.parametrize(("word", "status"), [("false", 409), ("FALSE", 409), ("true", 200), ("1", 200)])
async def test_only_the_word_false_keeps_a_file_from_being_replaced(house: House, word: str, status: int):
    await house.client.post("/userdata/a", data=b"1")
    assert (await house.client.post(f"/userdata/a?overwrite={word}", data=b"2")).status == status


async def test_a_name_that_no_file_system_takes_is_400(house: House):
    name = "x" * 300
    assert (await house.client.post(f"/userdata/{name}", data=b"1")).status == 400
    assert (await house.client.get(f"/view?filename={name}.png")).status == 400


async def test_the_tree_lists_folders_first_and_names_without_regard_to_case(house: House):
    for name in ("b%2Fx", "B.json", "a.json", "c%2Fd%2Fy"):
        await house.client.post(f"/userdata/{name}", data=b"1")
    listed = await house.json("/v2/userdata")
    assert [e["path"] for e in listed] == ["b", "c", "c/d", "a.json", "B.json", "b/x", "c/d/y"]


async def test_the_tree_of_an_unknown_user_is_403(open_house):
    house = await open_house(multi_user=True)
    assert (await house.client.get("/v2/userdata", headers={"comfy-user": "nobody"})).status == 403

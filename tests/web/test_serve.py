import re
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.serving import TESSERA, Server, free_port
from web.serve import PortInUse, bind, start_lines


def test_every_address_has_a_line_that_launchers_find():
    sockets = bind(["127.0.0.1", "::1"], 0) if socket.has_ipv6 else bind(["127.0.0.1"], 0)
    lines = start_lines(sockets, "http")
    port = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    assert lines[0] == f"To see the GUI go to: http://127.0.0.1:{port}"
    assert lines[1:] in ([f"To see the GUI go to: http://[::1]:{port}"], [])


def test_a_port_in_use_is_named_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1 port {port}.*--port"):
            bind(["127.0.0.1"], port)


def test_an_address_that_does_not_exist_is_named():
    with pytest.raises(PortInUse, match=r"no-such-host\.invalid"):
        bind(["no-such-host.invalid"], 0)


@pytest.mark.server
def test_the_port_in_use_ends_the_server_with_a_message(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [TESSERA, "serve", "--cpu", "--base-directory", tmp_path, "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("tessera: Can't listen on")
    assert "Traceback" not in ended.stderr


@pytest.mark.server
def test_nothing_heavy_is_loaded_before_the_port_answers():
    code = "import sys, web.cli; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "diffusers", "transformers", "scipy", "numpy"} & set(loaded)


@pytest.mark.server
def test_several_addresses_all_answer_and_a_second_server_on_the_folder_is_refused(tmp_path: Path):
    with Server(tmp_path, ("--cpu", "--listen", "127.0.0.1,127.0.0.2")) as server:
        for address in ("127.0.0.1", "127.0.0.2"):
            with urllib.request.urlopen(f"http://{address}:{server.port}/prompt", timeout=10) as reply:
                assert reply.status == 200
        command = [TESSERA, "serve", "--cpu", "--base-directory", tmp_path, "--port", str(free_port())]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "Another Tessera already uses" in second.stderr


@pytest.mark.server
def test_the_ci_flag_starts_and_ends(tmp_path: Path):
    command = [TESSERA, "serve", "--cpu", "--base-directory", tmp_path, "--port", "0", "--quick-test-for-ci"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "To see the GUI" in ended.stdout) == (0, True)


@pytest.mark.server
def test_a_server_open_to_all_warns_and_says_how_to_close_it(tmp_path: Path):
    with Server(tmp_path, ("--cpu", "--listen", "0.0.0.0")) as server:
        assert "Everybody who reaches 0.0.0.0 can use this server" in server.log
        assert "--auth-token" in server.log


@pytest.mark.server
def test_a_server_with_a_token_over_tls_serves_only_those_who_show_it(tmp_path: Path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    making = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*making, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    flags = ("--cpu", "--listen", "0.0.0.0", "--tls-keyfile", str(key), "--tls-certfile", str(cert))
    server = Server(
        tmp_path / "base", (*flags, "--auth-token"), context=ssl.create_default_context(cafile=cert)
    )
    server.base.mkdir()
    with server:
        assert "Everybody who reaches" not in server.log
        address, token = re.search(r"Sign in with: (https://[^?]+)\?token=(\S+)", server.log).groups()
        assert address == f"https://127.0.0.1:{server.port}/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}system_stats", context=server.context)
        request = urllib.request.Request(
            f"{address}system_stats", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, context=server.context) as reply:
            assert reply.status == 200
            assert token not in reply.read().decode()

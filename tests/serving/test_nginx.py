"""nginx before two servers, with the configuration that docs/serving.md shows."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_setup import KEY, PATIENCE, Running, Slow, running, until

from xlab.serving.keys import Keys

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: this test runs it before two servers")
HEADERS = {"Authorization": f"Bearer {KEY}"}


def configuration(folder: Path, ports: list[int], port: int) -> str:
    """The page's own block, with this test's ports."""
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    for written, own in zip(("127.0.0.1:8001", "127.0.0.1:8002"), ports, strict=True):
        assert written in block
        block = block.replace(written, f"127.0.0.1:{own}")
    assert "listen 80;" in block
    block = block.replace("listen 80;", f"listen 127.0.0.1:{port};")
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    logs = f"error_log {folder}/error.log warn; pid {folder}/nginx.pid;"
    return f"daemon off; {logs} events {{}} http {{ {paths} access_log off;\n{block} }}"


@pytest.fixture(scope="module")
def servers(checkpoint: Path) -> Iterator[list[Running]]:
    with (
        running(checkpoint, keys=Keys([KEY]), max_rows=2) as first,
        running(checkpoint, keys=Keys([KEY]), max_rows=2) as second,
    ):
        yield [first, second]


@pytest.fixture(scope="module")
def front(servers: list[Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx's address."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / "nginx.conf"
    file.write_text(configuration(folder, [server.port for server in servers], port))
    assert NGINX is not None
    log = folder / "error.log"
    with subprocess.Popen([NGINX, "-p", folder, "-e", log, "-c", file], stderr=subprocess.PIPE) as ran:
        try:
            url = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert ran.poll() is None, ran.stderr and ran.stderr.read()
                try:
                    return httpx.get(url + "/health").status_code == 200
                except httpx.TransportError:
                    return False

            until(answers)
            yield url
        finally:
            ran.terminate()
            ran.wait(PATIENCE)


def test_both_servers_are_used(front: str, servers: list[Running]) -> None:
    before = [server.service.runner.engine.rows.prefill_calls for server in servers]
    for seed in range(6):
        body = {"prompt": "the cat", "max_tokens": 2, "seed": seed}
        answer = httpx.post(front + "/v1/completions", json=body, headers=HEADERS, timeout=PATIENCE)
        assert answer.status_code == 200
        assert len(answer.headers.get_list("x-request-id")) == 1
    after = [server.service.runner.engine.rows.prefill_calls for server in servers]
    assert all(now > then for now, then in zip(after, before, strict=True))
    assert httpx.get(front + "/v1/models").status_code == 401


def test_a_stream_comes_as_it_is_written(front: str, servers: list[Running]) -> None:
    slow = [Slow(server.service) for server in servers]
    body = {
        "prompt": "the cat",
        "max_tokens": 30,
        "min_tokens": 30,
        "seed": 1,
        "stream": True,
        "return_token_ids": True,
    }
    try:
        for one in slow:
            one.let(5)
        with httpx.stream("POST", front + "/v1/completions", json=body, headers=HEADERS, timeout=PATIENCE) as answer:
            chunks = answer.iter_lines()
            assert next(chunks).startswith("data: ")  # while the engine waits for permits: nothing was gathered
            for one in slow:
                one.open()
            assert list(chunks)[-2:] == ["data: [DONE]", ""]
    finally:
        for one in slow:
            one.open()


def test_who_goes_away_is_gone_behind_nginx_too(front: str, servers: list[Running]) -> None:
    body = {"prompt": "the cat", "max_tokens": 90, "min_tokens": 90, "stream": True, "n": 2}
    with httpx.stream("POST", front + "/v1/completions", json=body, headers=HEADERS, timeout=PATIENCE) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    until(lambda: all(server.is_free() for server in servers))


def test_one_that_drains_is_passed_over(front: str, servers: list[Running]) -> None:
    servers[0].service.runner.is_draining = True
    try:
        for _ in range(4):
            started = time.monotonic()
            body = {"prompt": "the cat", "max_tokens": 1}
            answer = httpx.post(front + "/v1/completions", json=body, headers=HEADERS, timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
            assert time.monotonic() - started < PATIENCE
    finally:
        servers[0].service.runner.is_draining = False

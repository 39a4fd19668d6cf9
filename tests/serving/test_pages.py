"""The playground's files: a fixed list, under a strict policy."""

from pathlib import Path

import httpx
import pytest
from serving_setup import Running

from xlab.serving.errors import RequestError
from xlab.serving.pages import FOLDER, Pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "pages"
    (inner / "folder").mkdir(parents=True)
    (inner / "index.html").write_text("<p>here</p>")
    (inner / "app.js").write_text("1")
    (inner / "notes.py").write_text("not for others")
    (inner / ".hidden.js").write_text("not either")
    (tmp_path / "secret.html").write_text("no")
    return inner


def test_only_pages_are_found(folder: Path) -> None:
    pages = Pages(folder)
    assert set(pages.names) == {"index.html", "app.js"}
    for name in ("../secret.html", "folder", "notes.py", ".hidden.js", "", ".", "app.js/", "APP.JS", "app.js\x00"):
        with pytest.raises(RequestError) as refused:
            pages.response(name)
        assert refused.value.status == 404


def test_a_folder_that_is_not_there_has_no_pages(tmp_path: Path) -> None:
    assert Pages(tmp_path / "none").names == []


def test_they_come_with_a_policy(server: Running) -> None:
    for name in Pages().names:
        answer = httpx.get(f"{server.url}/playground/{name}")
        assert answer.status_code == 200
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "....//app.py", "/etc/passwd", "x.js"])
def test_nothing_else_comes(server: Running, path: str) -> None:
    with server.connect() as sock:
        sock.sendall(f"GET /playground/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert sock.recv(64).startswith(b"HTTP/1.1 404")

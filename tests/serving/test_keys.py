"""Keys: where they come from, and that nothing but the right one opens a guarded route."""

import base64
from pathlib import Path

import httpx
import pytest
from serving_setup import KEY, PATIENCE, Running, running

from xlab.serving.errors import RequestError, ServingError
from xlab.serving.keys import Keys, check_exposure, read_keys

GUARDED = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/generated_texts/"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/toy"),
    ("GET", "/model_card"),
    ("GET", "/version/"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("GET", "//"),
    ("GET", "/health/../v1/models"),
    ("GET", "/playground"),
    ("POST", "/"),
    ("POST", "/health"),
]
OPEN = ["/health", "/health/live", "/health/ready", "/health_check/", "/playground/none.js"]
WRONG = [
    None,
    "",
    "Bearer",
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY}x",
    f"Bearer {KEY.upper()}",
    f"Bearer x{KEY}",
    f"Bearer {KEY},{KEY}",
    KEY,
    f"Token {KEY}",
    "Basic " + base64.b64encode(f"{KEY}:".encode()).decode(),
    "Basic not-base-64",
    "Bearer \xff\xfe",
]


@pytest.fixture(scope="module")
def guarded(checkpoint: Path) -> object:
    with running(checkpoint, keys=Keys([KEY, "another-key-of-tests"]), max_rows=2) as server:
        yield server


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_nothing_but_a_key_opens(guarded: Running, method: str, path: str) -> None:
    with httpx.Client(timeout=PATIENCE) as client:
        for value in WRONG:
            headers = [] if value is None else [(b"authorization", value.encode("latin-1"))]
            answer = client.request(method, guarded.url + path, headers=headers)
            assert answer.status_code == 401, (value, answer.text)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert KEY not in answer.text
            assert "www-authenticate" in answer.headers
        twice = [(b"authorization", f"Bearer {KEY}".encode()), (b"authorization", b"Bearer no")]
        assert client.request(method, guarded.url + path, headers=twice).status_code == 401
        for key in (KEY, "another-key-of-tests"):
            answer = client.request(method, guarded.url + path, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code != 401


@pytest.mark.parametrize("path", OPEN)
def test_health_and_the_page_want_no_key(guarded: Running, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code in {200, 404}


def test_a_browser_may_give_the_key_as_a_password(guarded: Running) -> None:
    assert "Basic" in httpx.get(guarded.url + "/docs").headers["www-authenticate"]
    assert httpx.get(guarded.url + "/docs", auth=("anyone", KEY)).status_code == 200


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLAB_API_KEY", raising=False)
    assert not read_keys(None)
    file = tmp_path / "keys"
    file.write_text("# ours\nkey-number-1\n\nkey-number-2\n")
    for keys in (read_keys(str(file)), Keys(["key-number-1", "key-number-2"])):
        keys.check([b"Bearer key-number-2"])
        with pytest.raises(RequestError):
            keys.check([b"Bearer # ours"])
    monkeypatch.setenv("XLAB_API_KEY", "key-number-1, key-number-3")
    read_keys(None).check([b"bearer key-number-3"])
    with pytest.raises(ServingError, match="leave one out"):
        read_keys(str(file))
    monkeypatch.setenv("XLAB_API_KEY", " , ")  # whoever set it meant to close the door
    with pytest.raises(ServingError, match="has no keys"):
        read_keys(None)
    monkeypatch.setenv("XLAB_API_KEY", "key-number-1")
    assert "key" not in repr(read_keys(None)).lower().replace("keys(", "")


NO_KEYS = [b"", b"\n#\n", b"\xff\xfe\xff", b"short\n", "schlüssel-1\n".encode(), b"two words\n"]


@pytest.mark.parametrize("content", NO_KEYS)
def test_a_file_without_keys_is_one_line(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLAB_API_KEY", raising=False)
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ServingError) as caught:
        read_keys(str(file))
    assert "short" not in str(caught.value)
    with pytest.raises(ServingError, match="cannot read the keys"):
        read_keys(str(tmp_path / "none"))


def test_beyond_this_machine_a_key_is_needed() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        check_exposure(host, Keys(), no_auth=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "", "0"):
        with pytest.raises(ServingError, match=r"XLAB_API_KEY|is no address"):
            check_exposure(host, Keys(), no_auth=False)
        check_exposure(host, Keys(["a-long-enough-key"]), no_auth=False)
        check_exposure(host, Keys(), no_auth=True)
    with pytest.raises(ServingError, match="contradict"):
        check_exposure("127.0.0.1", Keys(["a-long-enough-key"]), no_auth=True)

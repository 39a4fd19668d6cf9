"""API keys: where they come from, and whether a request has one."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from xlab.serving.errors import RequestError, ServingError

VARIABLE = "XLAB_API_KEY"
SHORTEST = 8  # characters of a key


class Keys:
    """The keys that open the service; without any it is open to all.

    Kept as digests, so that neither a traceback nor a slip of a log can tell one.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for key in keys:
            if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise ServingError(
                    f"an API key must be of {SHORTEST} or more visible ASCII characters; one of yours is not"
                )
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)})"

    def check(self, authorization: Sequence[bytes]) -> None:
        """Raise RequestError, 401, unless one of the keys is in the values of the Authorization header.

        A bearer's token, or the password of Basic, which is what a browser can be asked for.
        """
        if not self._digests:
            return
        if len(authorization) == 1:
            given = _digest(_given(authorization[0]))
            # all are compared, in constant time, so that time tells nothing of any
            if sum([hmac.compare_digest(given, digest) for digest in self._digests]):
                return
        what = "wrong" if authorization else "missing"
        raise RequestError(f"the API key is {what}; send Authorization: Bearer KEY", status=401, code="invalid_api_key")


def _given(authorization: bytes) -> bytes:
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip(b" ")
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(b" "), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: str | None) -> Keys:
    """Read the keys of a file, one in each line, or those of XLAB_API_KEY, between commas.

    Raises:
        ServingError: if the file cannot be read, what is given has none, or both are given.
    """
    variable = os.environ.get(VARIABLE, "")
    if file is None:
        keys = [key.strip() for key in variable.split(",") if key.strip()]
        if variable.strip() and not keys:
            raise ServingError(f"{VARIABLE} has no keys; write them between commas, or leave it out")
        return Keys(keys)
    if variable.strip():
        raise ServingError(f"--api-key-file and {VARIABLE} both give keys; leave one out")
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ServingError(f"cannot read the keys in {file}: {reason}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ServingError(f"{file} has no keys; write one in each line")
    return Keys(keys)


def check_exposure(host: str, keys: Keys, *, no_auth: bool) -> None:
    """Refuse to listen beyond this machine without a key, unless that is what was asked for.

    Raises:
        ServingError: then, for a host that is not known, and for keys together with ``no_auth``.
    """
    if keys and no_auth:
        raise ServingError("--no-auth and API keys contradict each other; leave one out")
    if keys or no_auth or _is_loopback(host):
        return
    raise ServingError(
        f"--host {host} would open the model to everyone who reaches this machine; set {VARIABLE}, or name a file of "
        "keys with --api-key-file, or add --no-auth if that is what you want"
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServingError(f"--host {host} is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)

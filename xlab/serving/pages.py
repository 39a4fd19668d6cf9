"""The playground's files: a fixed list, found at the start, under a policy that lets nothing else in."""

from pathlib import Path

from starlette.responses import FileResponse

from xlab.serving.errors import RequestError

FOLDER = Path(__file__).parent / "playground"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Pages:
    """The files that lie in a folder when it is made; a name is looked up, never joined to a path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        self._files = {path.name: path for path in found if path.is_file() and _is_page(path)}

    @property
    def names(self) -> list[str]:
        """Of all files."""
        return list(self._files)

    def response(self, name: str) -> FileResponse:
        """The file of that name.

        Raises:
            RequestError: 404, if there is none.
        """
        path = self._files.get(name)
        if path is None or not path.is_file():
            raise RequestError(f"the playground has no file {name[:64]!r}", status=404, code="not_found")
        return FileResponse(path, media_type=KINDS[path.suffix], headers=HEADERS)


def _is_page(path: Path) -> bool:
    return path.suffix in KINDS and not path.name.startswith(".")

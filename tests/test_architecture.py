"""Who may import whom, and what a light import must not drag in."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xlab

PACKAGE = Path(xlab.__file__).parent

# a part of the package: what it may import beside its own modules, xlab.errors and xlab.__version__
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "data": set(),
    "transformer": set(),
    "factories": set(),
    "training": {"transformer", "data"},
    "shard_reading": set(),
    "sharded_checkpoints": {"shard_reading", "checkpoint_writing"},
    "setting_names": set(),
    "trusted_classes": {"setting_names", "factories"},
    "checkpoint_writing": set(),
    "checkpoints": {
        *("sharded_checkpoints", "checkpoint_writing", "setting_names", "trusted_classes"),
        *("factories", "transformer", "data"),
    },
    "checkpoint_files": {"checkpoints", "checkpoint_writing", "sharded_checkpoints"},
    "strategies": {"checkpoint_files", "sharded_checkpoints", "training"},
    "interop": {"checkpoints", "trusted_classes", "factories", "transformer", "data"},
    "checkpoint_data": {"data", "checkpoints", "factories"},
    "datamodules": {"data", "checkpoints", "checkpoint_data", "factories"},
    "inference": {"checkpoints", "transformer", "data"},
    "serving": {"inference", "checkpoints", "transformer", "data"},
    "evaluation": {"inference", "checkpoints", "transformer", "data"},
    "models": {"transformer", "training", "checkpoints", "factories", "data", "inference", "interop"},
}
ARROWS["lab"] = set(ARROWS)
ARROWS["commands"] = set(ARROWS)  # the top: it may import everything
OPEN_TO_ALL = {"errors", "__version__"}


def part_of(module: str) -> str:
    """``xlab.data.packing`` belongs to ``data``, ``xlab`` itself to ``__version__``."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__version__"


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Name every module of XLab's that a source imports, wherever in it, ``import`` inside of functions included."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [origin, node.module]))
            # only the names tell what `from xlab import …` takes
            named = [f"xlab.{alias.name}" for alias in node.names] if base == "xlab" else [base]
        else:
            continue
        yield from (name for name in named if name.split(".")[0] == "xlab")


def forbidden(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """List the arrows of a source that are not in ``ARROWS``."""
    part = part_of(module)
    reached = {part_of(name) for name in imported(source, module, is_package=is_package)}
    allowed = OPEN_TO_ALL | {part} | ARROWS.get(part, set())
    return [f"{module} imports xlab.{name}" for name in sorted(reached - allowed)]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(names).removesuffix(".__init__"), path


def test_no_arrow_points_backwards() -> None:
    found = []
    for module, path in modules():
        found += forbidden(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    assert found == []


def test_every_part_has_its_place_in_the_list() -> None:
    parts = {part_of(module) for module, _ in modules()} - {"__version__"}
    assert parts == ARROWS.keys()


def test_the_list_has_no_circle() -> None:
    placed: set[str] = set()
    while left := ARROWS.keys() - placed - {"commands"}:
        ready = {part for part in left if ARROWS[part] <= placed}
        assert ready, f"these import each other: {left}"
        placed |= ready


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("xlab.data.packing", "import xlab.models", ["models"]),
        ("xlab.data.packing", "from xlab.transformer.decoder import Decoder", ["transformer"]),
        ("xlab.data.packing", "from xlab import checkpoints, __version__", ["checkpoints"]),
        ("xlab.data.packing", "from ..training import metrics", ["training"]),
        ("xlab.data.packing", "from .. import models", ["models"]),
        ("xlab.transformer.block", "def f():\n    from xlab import factories", ["factories"]),
        ("xlab.training.metrics", "if TYPE_CHECKING:\n    import xlab.models as m", ["models"]),
        (
            "xlab.inference.engine",
            "from xlab.models import XLabModel\nimport xlab.commands.infer",
            ["commands", "models"],
        ),
        ("xlab.errors", "import xlab.data.digest", ["data"]),
        ("xlab.newcomer", "import xlab.models", ["models"]),
        ("xlab.data.packing", "from xlab.data.token_store import TokenStore\nfrom . import digest", []),
        ("xlab.data.packing", "from xlab.errors import DataError\nfrom xlab import __version__, errors", []),
        ("xlab.data.packing", "import numpy\nfrom xlabels import models", []),
    ],
)
def test_the_walk_sees_a_forbidden_arrow(module: str, source: str, found: list[str]) -> None:
    assert forbidden(source, module) == [f"{module} imports xlab.{part}" for part in found]


def test_relative_imports_of_a_package_start_at_the_package() -> None:
    assert list(imported("from . import sources", "xlab.data", is_package=True)) == ["xlab.data"]
    assert forbidden("from ..models import XLabModel", "xlab.data", is_package=True) == [
        "xlab.data imports xlab.models"
    ]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("xlab.inference", ["lightning", "datasets", "tensorboard", "jsonargparse"]),
        ("xlab.data.packing", ["lightning", "datasets"]),  # each spawned loader worker imports it
        ("xlab.commands.train", ["torch", "lightning", "numpy"]),  # --help answers before anything heavy
        ("xlab.commands.manage", ["torch", "lightning", "numpy", "scipy", "optuna"]),
        ("xlab.lab.compare_page", ["torch", "lightning", "scipy"]),
        ("xlab.commands.serve", ["torch", "fastapi", "uvicorn", "pydantic", "aiogram", "aiohttp"]),
    ],
)
def test_a_light_import_stays_light(module: str, heavy: list[str]) -> None:
    script = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []

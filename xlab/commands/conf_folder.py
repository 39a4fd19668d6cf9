"""Where XLab's own YAML lies."""

from pathlib import Path

import xlab
from xlab.errors import ConfigError


def conf_folder() -> Path:
    """Give the folder of XLab's own YAML: in the package where it was installed, beside it in a checkout.

    Raises:
        ConfigError: when it is not there.
    """
    package = Path(xlab.__file__).parent
    folder = next((parent / "conf" for parent in (package, package.parent) if (parent / "conf").is_dir()), None)
    if folder is None or not (folder / "defaults.yaml").is_file():
        raise ConfigError(f"conf/defaults.yaml is missing beside {package}; restore it from the repository")
    return folder

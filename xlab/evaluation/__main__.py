"""``python -m xlab.evaluation``: lm-eval's own command line, which then knows ``--model xlab``.

lm-eval knows the models that something has imported, and has no way to be told of another; so XLab's is imported first.
"""

import sys

from lm_eval.__main__ import cli_evaluate

import xlab.evaluation.harness  # noqa: F401, registers the model
from xlab.errors import XLabError

if __name__ == "__main__":
    try:
        cli_evaluate()
    except XLabError as error:
        sys.exit(f"error: {error}")

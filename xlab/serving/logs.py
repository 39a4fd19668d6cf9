"""Logs as JSON lines on standard error: what was asked of which route, how it went and how long it took.

Never headers, query strings or keys; prompts and texts only where the operator asked for them.
"""

import json
import logging
import sys
import time
from typing import Any, TextIO


class JsonLines(logging.Formatter):
    """One JSON object for each record; what ``extra={"fields": …}`` gives stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.gmtime(record.created)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(stream: TextIO | None = None) -> None:
    """Send what the service and uvicorn have to say to ``stream``, standard error if None."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("xlab.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False

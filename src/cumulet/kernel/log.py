# SPDX-License-Identifier: Apache-2.0
"""Logging: human lines or JSON, the request id in each line, secrets masked on the way out."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson

from cumulet.kernel import context, secrets

_FIELDS = ("server_id", "saga", "host", "component", "duration_ms", "status")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": secrets.mask(record.getMessage()),
        }
        if (caller := context.current()) is not None:
            line["request_id"] = caller.trace_id
        line.update({key: value for key in _FIELDS if (value := getattr(record, key, None)) is not None})
        if record.exc_info:
            line["error"] = secrets.mask(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        caller = context.current()
        request = f" [{caller.trace_id}]" if caller else ""
        extra = "".join(f" {key}={value}" for key in _FIELDS if (value := getattr(record, key, None)) is not None)
        at = self.formatTime(record, "%H:%M:%S")
        text = f"{at}.{int(record.msecs):03d} {record.levelname[0]} {record.name}{request} {record.getMessage()}{extra}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return secrets.mask(text)


def configure(*, json: bool = False, level: str = "INFO", stream: Any = None) -> None:
    """Send all log lines of this process to ``stream`` (default: standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if json else _Human())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("asyncio", "aiormq", "aio_pika", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

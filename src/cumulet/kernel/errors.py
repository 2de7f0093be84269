# SPDX-License-Identifier: Apache-2.0
"""Errors are statuses: a dozen classes whose docstring is their default message.

A service subclasses one only where some caller branches on it. Each API
dialect turns them into its own published body at the edge; nothing else does.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Fault(Exception):
    """The request could not be carried out."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"

    def __init__(self, message: str | None = None, *, kind: str | None = None, **details: Any) -> None:
        """``kind`` is the published type name where a dialect has one; ``details`` go to the dialect only."""
        self.message = message if message is not None else (type(self).__doc__ or "").strip()
        self.kind = kind or type(self).__name__
        self.details = details
        self.headers: dict[str, str] = {}
        super().__init__(self.message)


class Invalid(Fault):
    """The request is invalid."""

    status, title = 400, "Bad Request"


class Unauthorized(Fault):
    """The request you have made requires authentication."""

    status, title = 401, "Unauthorized"


class Forbidden(Fault):
    """You are not authorized to perform the requested action."""

    status, title = 403, "Forbidden"


class OverQuota(Forbidden):
    """Quota exceeded."""


class NotFound(Fault):
    """The resource could not be found."""

    status, title = 404, "Not Found"


class MethodNotAllowed(Fault):
    """The method is not allowed for this resource."""

    status, title = 405, "Method Not Allowed"


class NotAcceptable(Fault):
    """The requested version or media type is not available."""

    status, title = 406, "Not Acceptable"


class Conflict(Fault):
    """The request conflicts with the state of the resource."""

    status, title = 409, "Conflict"


class Gone(Fault):
    """The resource is no longer available."""

    status, title = 410, "Gone"


class PreconditionFailed(Fault):
    """The resource was changed by someone else."""

    status, title = 412, "Precondition Failed"


class TooLarge(Fault):
    """Request is too large."""

    status, title = 413, "Request Entity Too Large"


class UnsupportedMedia(Fault):
    """Unsupported Content-Type."""

    status, title = 415, "Unsupported Media Type"


class TooMany(Fault):
    """Too many requests; try again later."""

    status, title = 429, "Too Many Requests"


class Internal(Fault):
    """An unexpected error prevented the server from fulfilling your request."""


class NotSupported(Fault):
    """This is not implemented."""

    status, title = 501, "Not Implemented"


class Unavailable(Fault):
    """A service that is needed is not available; try again later."""

    status, title = 503, "Service Unavailable"


BY_STATUS: dict[int, type[Fault]] = {
    cls.status: cls
    for cls in (
        Invalid, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, Conflict, Gone,
        PreconditionFailed, TooLarge, UnsupportedMedia, TooMany, Internal, NotSupported, Unavailable,
    )
}  # fmt: skip


def of_status(status: int, message: str) -> Fault:
    """The fault that a foreign service's status stands for."""
    cls = BY_STATUS.get(status) or (Invalid if 400 <= status < 500 else Unavailable)
    return cls(message)

# SPDX-License-Identifier: Apache-2.0
"""The image API's published way of saying that something is wrong: a small page, as HTML, JSON or plain text.

Source: the Image API reference, "Normal and error response codes", and a real
Glance (tools/peer.py), whose refused tokens are told in the same form.
"""

from __future__ import annotations

import html

import orjson

from cumulet.kernel.errors import Fault, OverQuota
from cumulet.kernel.http.api import FaultRequest


class RangeNotSatisfiable(Fault):
    """The Range header can not be satisfied."""

    status, title = 416, "Request Range Not Satisfiable"


class ImageDialect:
    """Faults as the image service writes them."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a fault, in the form that the client accepts."""
        status, title, message = fault.status, fault.title, fault.message
        more = {"WWW-Authenticate": f'Keystone uri="{request.base}/identity"'} if status == 401 else {}
        if fault.kind == "PolicyNotAuthorized":
            message = f"You are not authorized to complete {fault.details.get('rule')} action."
        if isinstance(fault, OverQuota):
            status, title = 413, "Request Entity Too Large"
        line = f"{status} {title}"
        kind = _form(request.accept)
        if kind == "application/json":
            body = orjson.dumps({"message": f"{message}<br /><br />\n\n\n", "code": line, "title": title})
            return status, {"Content-Type": "application/json", **more}, body
        if kind == "text/html":
            text = (
                f"<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n  <h1>{line}</h1>\n"
                f"  {html.escape(message)}<br /><br />\n\n\n\n </body>\n</html>"
            )
            return status, {"Content-Type": "text/html; charset=UTF-8", **more}, text.encode()
        return status, {"Content-Type": "text/plain; charset=UTF-8", **more}, f"{line}\n\n{message}\n\n   ".encode()


def _form(accept: str) -> str:
    """HTML unless the client accepts JSON and not HTML; plain text when it accepts neither."""
    kinds = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    if not accept or kinds & {"*/*", "text/html", "text/*"}:
        return "text/html"
    return "application/json" if kinds & {"application/json", "application/*"} else "text/plain"

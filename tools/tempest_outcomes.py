# SPDX-License-Identifier: Apache-2.0
"""Reads a subunit stream and prints what became of each test, as JSON.

Runs in Tempest's own environment, since only that one has the subunit library.
"""

import json
import sys

import subunit
import testtools


class Collect(testtools.StreamResult):
    """The last status of each test, and the text that explains it."""

    def __init__(self) -> None:
        super().__init__()
        self.tests: dict[str, dict[str, str]] = {}

    def status(self, test_id=None, test_status=None, file_name=None, file_bytes=None, **_):  # type: ignore[no-untyped-def]
        if not test_id:
            return
        test = self.tests.setdefault(test_id, {"status": "", "text": ""})
        if file_bytes and file_name in ("traceback", "reason"):
            test["text"] += bytes(file_bytes).decode(errors="replace")
        if test_status not in (None, "exists", "inprogress"):
            test["status"] = test_status


collect = Collect()
with open(sys.argv[1], "rb") as stream:
    subunit.ByteStreamToStreamResult(stream, non_subunit_name="stdout").run(collect)
json.dump(collect.tests, sys.stdout)

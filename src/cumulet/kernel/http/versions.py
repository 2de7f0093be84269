# SPDX-License-Identifier: Apache-2.0
"""Microversions: one number per request, compared as numbers, answered in the header that was used.

Source: the API-SIG microversion specification and the services' own references.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cumulet.kernel.errors import Invalid, NotAcceptable

_NUMBER = re.compile(r"^([1-9]\d*)\.(0|[1-9]\d*)$")
Version = tuple[int, int]


def parse(text: str) -> Version:
    """``2.37`` as (2, 37); raises ValueError."""
    match = _NUMBER.match(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), int(match[2])


def within(version: Version, since: str | None, until: str | None) -> bool:
    """Whether ``version`` lies in [since, until], both inclusive and optional."""
    return (since is None or version >= parse(since)) and (until is None or version <= parse(until))


@dataclass(frozen=True)
class Versions:
    """A service's range of microversions and the headers that ask for one."""

    service_type: str
    minimum: str
    maximum: str
    legacy_header: str | None = None
    """An older header of the same meaning, e.g. ``X-OpenStack-Nova-API-Version``."""

    def of(self, headers: Mapping[str, str]) -> Version:
        """The version that a request asks for (the minimum by default).

        Raises Invalid for a malformed number and NotAcceptable outside the range.
        """
        asked = self._asked(headers)
        if asked is None:
            return parse(self.minimum)
        if asked == "latest":
            return parse(self.maximum)
        try:
            version = parse(asked)
        except ValueError:
            raise Invalid(
                f"API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum.",
                kind="InvalidAPIVersionString",
            ) from None
        if not within(version, self.minimum, self.maximum):
            raise NotAcceptable(
                f"Version {asked} is not supported by the API. "
                f"Minimum is {self.minimum} and maximum is {self.maximum}.",
                kind="InvalidGlobalAPIVersion",
                minimum=self.minimum,
                maximum=self.maximum,
            )
        return version

    def _asked(self, headers: Mapping[str, str]) -> str | None:
        modern = headers.get("openstack-api-version")
        if modern is not None:
            for item in modern.split(","):
                words = item.split()
                if len(words) == 2 and words[0].lower() in (self.service_type, self.service_type.replace("-", "")):
                    return words[1].lower()
        if self.legacy_header is not None and (legacy := headers.get(self.legacy_header.lower())) is not None:
            return legacy.strip().lower()
        return None

    def headers(self, version: Version | None) -> dict[str, str]:
        """The headers that every answer carries, errors too."""
        number = "{}.{}".format(*version) if version else self.minimum
        answer = {"OpenStack-API-Version": f"{self.service_type} {number}", "Vary": "OpenStack-API-Version"}
        if self.legacy_header is not None:
            answer[self.legacy_header] = number
            answer["Vary"] += f", {self.legacy_header}"
        return answer

# SPDX-License-Identifier: Apache-2.0
"""What other processes tell insight: flow events, in batches; nobody waits for an answer."""

from __future__ import annotations

import msgspec

from cumulet.kernel.bus import Method
from cumulet.kernel.trace import Event


class Events(msgspec.Struct):
    events: list[Event]


EVENTS = Method("insight.events", "events", Events, type(None))

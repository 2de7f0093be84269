# SPDX-License-Identifier: Apache-2.0
"""The rules of insight: a project's readers see their own servers; names of hosts are for admins."""

from __future__ import annotations

from typing import Final

from cumulet.kernel.policy import Rule

_READER: Final = "(role:reader and project_id:%(project_id)s) or role:admin"

FLOW: Final = "cumulet:servers:flow"
FLOW_HOSTS: Final = "cumulet:servers:flow:hosts"
WHY: Final = "cumulet:servers:why"
WHY_HOSTS: Final = "cumulet:servers:why:hosts"
STEPS: Final = "cumulet:steps:list"
CHECK: Final = "cumulet:check"
REPAIR: Final = "cumulet:check:repair"
ROLES: Final = "cumulet:roles:list"
MESSAGES: Final = "cumulet:messages:list"
JOIN_TOKENS: Final = "cumulet:join_tokens:create"
HOSTS: Final = "cumulet:hosts:list"
MAINTAIN: Final = "cumulet:hosts:update"
REMOVE: Final = "cumulet:hosts:delete"

RULES: Final = [
    Rule(FLOW, _READER, description="See the flow of a server."),
    Rule(FLOW_HOSTS, "role:admin", description="See the names of hosts in a flow."),
    Rule(WHY, _READER, description="See why a server got the host it has, or none."),
    Rule(WHY_HOSTS, "role:admin", description="See the names of hosts in that explanation."),
    Rule(STEPS, "@", ("project", "domain", "system"), description="See what the steps of a flow are."),
    Rule(CHECK, "role:admin", ("project", "system"), description="Have all invariants of the cloud checked."),
    Rule(REPAIR, "role:admin", description="Have broken invariants mended."),
    Rule(ROLES, "role:admin", ("system", "project"), description="See the processes of the cloud, and which live."),
    Rule(MESSAGES, "role:admin", ("system", "project"), description="See the messages that were set aside."),
    Rule(JOIN_TOKENS, "role:admin", ("system", "project"), description="Let a machine join the cloud as a host."),
    Rule(HOSTS, "role:admin", ("system", "project"), description="See the hosts of the cloud."),
    Rule(MAINTAIN, "role:admin", ("system", "project"), description="Have nothing new put on a host, or again."),
    Rule(REMOVE, "role:admin", ("system", "project"), description="Remove a host from the cloud."),
]

# SPDX-License-Identifier: Apache-2.0
"""The compute agent: one per host, without a database. It builds what it is told and reports what is true.

Invariant: before each effect of a build the conductor is asked whether the
attempt is still the current one; everything on the host is found again after a
restart, so a restart disturbs no guest.
"""

from cumulet.compute.agent.agent import ComputeAgent

__all__ = ["ComputeAgent"]

# SPDX-License-Identifier: Apache-2.0
"""The mechanism under every service: HTTP tables, databases, sagas, the bus, time, ids, errors.

The kernel knows no service and names no resource of one. A piece lives here
only when two services use it for the same reason.
"""

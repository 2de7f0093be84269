# SPDX-License-Identifier: Apache-2.0
"""Insight: what happened to a server, step by step, and why it got no host.

Owns the flow events of all processes (for a week) and what their names mean.
Not the truth about servers: whether a caller may see one is for compute to say.
"""

# SPDX-License-Identifier: Apache-2.0
"""Everything compute does that is longer than one transaction: create, delete, power, attach, detach.

Nothing is imported here: agents read `params` only, and a host has no database.
"""

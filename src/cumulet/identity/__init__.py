# SPDX-License-Identifier: Apache-2.0
"""Identity: who there is, what they may, and how everybody else learns it (the published Identity API v3).

Owns users, groups, domains, projects, roles and their assignments, tokens,
application credentials, and the catalogue of endpoints. Not the quotas or
policies of other services: those ask whom a token belongs to and decide alone.

Domain words beside the fixed vocabulary: ``bootstrap`` (what a new cloud has).
"""

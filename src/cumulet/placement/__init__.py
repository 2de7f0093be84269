# SPDX-License-Identifier: Apache-2.0
"""Placement: who provides how much of what, and who has claimed it.

Owns resource providers (trees of them), their inventories, traits and
aggregates, and the allocations of consumers. Knows nothing of servers, hosts
or schedulers: a consumer is an id, a provider is a name with numbers. Of two
claims for the last free unit one wins; that is the only promise others build on.

Domain words of its own: `names` (standard traits and resource classes),
`search` (allocation candidates, a pure function over trees), `feed` (the
numbered changes that snapshots follow).

Conformance: versions 1.0 to 1.39, all operations. `limit` takes the first
candidates in a stable order unless ``randomize_allocation_candidates`` is set;
the texts of errors are our own where no client parses them, and always JSON.
Known to differ: a version 0.x is malformed (400, published 406); a body that is
no JSON is told before a missing role (400 before 403), and a body of the wrong
shape before a missing provider (400 before 404).
"""

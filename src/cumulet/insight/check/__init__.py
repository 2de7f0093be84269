# SPDX-License-Identifier: Apache-2.0
"""The invariant checker: what every service says it holds, joined; what belongs to nothing, named.

``facts`` gathers, ``rules`` is the table of invariants, ``checker`` asks twice
and repairs. It reads no database and no host: only the services' published
answers.
"""

# SPDX-License-Identifier: Apache-2.0
"""`cumulet chaos`: a cloud of its own is killed while it works, started again, and judged by what anybody can see.

``scenarios`` says what is done to it, ``sweep`` kills it at every point of an
operation, ``storm`` at random times under load. Nothing here reads a database:
the judge is the API and `cumulet check`.
"""

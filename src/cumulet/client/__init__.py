# SPDX-License-Identifier: Apache-2.0
"""Typed REST clients of the services: the only door between them, and for cli and dashboard.

Owns how a request is sent and who vouches for it; knows no service's inside.
"""

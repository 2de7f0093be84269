# SPDX-License-Identifier: Apache-2.0
"""Cumulet: a whole OpenStack cloud in one Python package."""

__version__ = "0.1.0"

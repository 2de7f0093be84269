# SPDX-License-Identifier: Apache-2.0
"""Clouds in processes of their own: killed, stopped, spread."""

# SPDX-License-Identifier: Apache-2.0
"""The only place that knows all services: settings, building, roles, serving, the first start."""

# SPDX-License-Identifier: Apache-2.0
"""The declarative HTTP layer: routes, fields and views are tables; the pipeline enforces them."""

from cumulet.kernel.http.api import Api, Dialect, Flow
from cumulet.kernel.http.body import Body, Query
from cumulet.kernel.http.fields import Field, Out, Param, View
from cumulet.kernel.http.request import Answer, Request
from cumulet.kernel.http.route import Route
from cumulet.kernel.http.versions import Versions

__all__ = [
    "Answer", "Api", "Body", "Dialect", "Field", "Flow", "Out", "Param", "Query", "Request", "Route", "Versions",
    "View",
]  # fmt: skip

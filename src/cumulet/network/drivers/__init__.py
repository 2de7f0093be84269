# SPDX-License-Identifier: Apache-2.0
"""The data planes of one host behind one small Protocol (``model``): real bridges, or a simulation.

``bridge`` carries real packets on Linux; ``simulated`` keeps plans in a file
and has knobs for latency and failure. Both pass the same conformance suite.
"""

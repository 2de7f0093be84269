# SPDX-License-Identifier: Apache-2.0
"""The scheduler: a pure function (request, snapshot) → ranked hosts with reasons, and the role that serves it.

`model` says what is asked and answered, `snapshot` holds all hosts in columns,
`filters` and `weighers` are small functions over columns, `select` applies
them, `claims` takes the best host in placement, `service` is the role, `rpc`
its messages. The snapshot only pre-selects; what placement grants decides.
"""

# SPDX-License-Identifier: Apache-2.0
"""Sagas: work longer than one transaction, as a list of steps with *do* and *undo*, journalled.

Position and outputs are in the database; whoever holds the lease goes on. An
explicit list, not replayed code: it can be shown to an operator, versioned, and
failed at every step by a test.
"""

from cumulet.kernel.saga.ear import Ear
from cumulet.kernel.saga.engine import SagaEngine
from cumulet.kernel.saga.model import Cancelled, Failed, RetryFrom, Run, Saga, Step, Wait
from cumulet.kernel.saga.store import saga_table

__all__ = ["Cancelled", "Ear", "Failed", "RetryFrom", "Run", "Saga", "SagaEngine", "Step", "Wait", "saga_table"]

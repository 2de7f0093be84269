# SPDX-License-Identifier: Apache-2.0
"""rpc inside a service: typed methods over queues that may lose a message.

The intention lives in the database (sagas, reconcilers), so nothing here needs
to survive. The in-memory bus encodes and decodes like a broker's: what works
alone works spread.
"""

from cumulet.kernel.bus.memory import MemoryBus
from cumulet.kernel.bus.model import Bus, Handlers, Method, Poison, Subscription, ensure_speaks_for
from cumulet.kernel.bus.rabbit import RabbitBus

__all__ = ["Bus", "Handlers", "MemoryBus", "Method", "Poison", "RabbitBus", "Subscription", "ensure_speaks_for"]

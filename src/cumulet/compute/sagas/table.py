# SPDX-License-Identifier: Apache-2.0
"""All compute sagas, as the engine takes them."""

from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.compute.sagas.image import CREATE_IMAGE
from cumulet.compute.sagas.interfaces import ATTACH_INTERFACE, DETACH_INTERFACE
from cumulet.compute.sagas.power import POWER_SERVER
from cumulet.compute.sagas.volumes import ATTACH_VOLUME, DETACH_VOLUME

SAGAS = (
    CREATE_SERVER,
    DELETE_SERVER,
    POWER_SERVER,
    CREATE_IMAGE,
    ATTACH_VOLUME,
    DETACH_VOLUME,
    ATTACH_INTERFACE,
    DETACH_INTERFACE,
)

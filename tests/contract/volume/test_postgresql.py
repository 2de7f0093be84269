# SPDX-License-Identifier: Apache-2.0
"""Image and volume on PostgreSQL: what speaks to the database in more than one way, the same tests once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cumulet.volume.drivers.simulated import Knobs
from tests.contract.image import test_image_data, test_image_members, test_images
from tests.contract.image.lone import Lone, lone_service
from tests.contract.volume import test_attachments, test_snapshots, test_volumes
from tests.contract.volume.volumes import ROLES, Volumes

pytestmark = pytest.mark.postgres


@pytest.fixture
async def image(tmp_path: Path, postgres: str) -> AsyncIterator[Lone]:
    async with lone_service("image", tmp_path / "image", {"image-api"}, mount="/image", postgres=postgres) as lone:
        yield lone


@pytest.fixture
async def volumes(tmp_path: Path, postgres: str, image: Lone) -> AsyncIterator[Volumes]:
    knobs = Knobs()
    options = {"volume_knobs": knobs, "sole": False}
    others = {"image": image.transport}
    async with lone_service(
        "volume", tmp_path / "volume", ROLES, mount="/volume", options=options, others=others, postgres=postgres
    ) as lone:
        yield Volumes(lone, knobs, image)


@pytest.mark.parametrize(
    "test",
    [
        test_images.test_pages_go_through_all_images_once,
        test_images.test_filters,
        test_images.test_patch_changes_everything_or_nothing,
        test_images.test_an_id_may_be_chosen_once,
        test_images.test_the_project_limits,
        test_images.test_tags,
        test_image_members.test_sharing_from_offer_to_acceptance,
        test_image_data.test_upload_and_download,
        test_image_data.test_two_uploads_at_once,
        test_image_data.test_delete_while_data_comes,
        test_image_data.test_a_killed_upload_is_given_up_and_its_file_removed,
        test_image_data.test_import_of_staged_data,
    ],
)
async def test_images_are_the_same(test: Callable[[Lone], Awaitable[None]], image: Lone) -> None:
    await test(image)


@pytest.mark.parametrize(
    "test",
    [
        test_volumes.test_pages_go_through_all_volumes_once,
        test_volumes.test_filters,
        test_volumes.test_the_summary,
        test_volumes.test_update_and_metadata,
        test_volumes.test_extend,
        test_volumes.test_delete,
        test_volumes.test_a_busy_volume_is_not_deleted_but_by_force,
        test_volumes.test_a_clone_of_a_volume,
        test_volumes.test_quotas,
        test_volumes.test_types,
        test_volumes.test_limits_zones_services_and_pools,
        test_snapshots.test_a_volume_with_snapshots_is_deleted_only_with_them,
        test_snapshots.test_lists_filters_and_changes,
        test_attachments.test_the_way_that_compute_goes,
        test_attachments.test_only_a_service_chooses_ids_and_only_once,
        test_attachments.test_a_multiattach_volume_is_for_many,
    ],
)
async def test_volumes_are_the_same(test: Callable[[Volumes], Awaitable[None]], volumes: Volumes) -> None:
    await test(volumes)

# SPDX-License-Identifier: Apache-2.0
"""Selecting as tables: hosts and a request in, ranked hosts and reasons out."""

from __future__ import annotations

import sys
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulet.client.placement import Inventory, Summary
from cumulet.compute.scheduler.filters import matches
from cumulet.compute.scheduler.model import GroupWish, Rejected
from cumulet.compute.scheduler.select import select
from cumulet.kernel import ids
from tests.services.compute.scheduler.hosts import NOW, chosen, cloud, node, provider, report, request, snapshot

AVX = "HW_CPU_X86_AVX"


def three() -> Any:
    """h1: small, with AVX, zone a; h2: large, zone b, KVM; h3: middle, zone b, with a golden attribute."""
    return snapshot(
        (provider(1, vcpus=4, memory=2048, traits=[AVX]), report(1, zone="a", hypervisor_type="QEMU")),
        (provider(2, vcpus=32, memory=65536, disk=1000), report(2, zone="b", hypervisor_type="KVM")),
        (provider(3, vcpus=16, memory=32768, disk=500), report(3, zone="b", hypervisor_type="simulated",
                                                                attributes={"tier": "gold", "cores": 16})),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, ["h2", "h3", "h1"]),
        ({"vcpus": 8}, ["h2", "h3"]),
        ({"vcpus": 33}, []),
        ({"memory_mib": 40_000}, ["h2"]),
        ({"disk_gib": 0, "memory_mib": 2048}, ["h2", "h3", "h1"]),
        ({"disk_gib": 101}, ["h2", "h3"]),
        ({"availability_zone": "a"}, ["h1"]),
        ({"availability_zone": "nowhere"}, []),
        ({"exclude": ["h2", "h9"]}, ["h3", "h1"]),
        ({"force_host": "h1"}, ["h1"]),
        ({"force_host": "h9"}, []),
        ({"force_host": "h1", "availability_zone": "b"}, ["h1"]),
        ({"force_host": "h1", "vcpus": 5}, []),
        ({"force_node": node(3)}, ["h3"]),
        ({"destination": "h2"}, ["h2"]),
        ({"destination": "h9"}, []),
        ({"destination": "h1", "availability_zone": "b"}, []),
        ({"destination": "h1", "vcpus": 5}, []),
        ({"destination": "h2", "exclude": ["h2"]}, []),
        ({"extra_specs": {f"trait:{AVX}": "required"}}, ["h1"]),
        ({"extra_specs": {f"trait:{AVX}": "forbidden"}}, ["h2", "h3"]),
        ({"image_properties": {f"trait:{AVX}": "required"}}, ["h1"]),
        ({"extra_specs": {"trait:CUSTOM_NEVER_SEEN": "required"}}, []),
        ({"extra_specs": {"resources:VCPU": "20"}}, ["h2"]),
        ({"extra_specs": {"resources:CUSTOM_FPGA": "1"}}, []),
        ({"extra_specs": {"resources:VCPU": "0", "resources:MEMORY_MB": "0"}}, ["h2", "h3", "h1"]),
        ({"extra_specs": {"capabilities:tier": "gold"}}, ["h3"]),
        ({"extra_specs": {"tier": "<or> gold <or> silver"}}, ["h3"]),
        ({"extra_specs": {"cores": ">= 8"}}, ["h3"]),
        ({"extra_specs": {"hypervisor_type": "KVM", "hw:cpu_policy": "dedicated"}}, ["h2"]),
        ({"image_properties": {"img_hv_type": "kvm"}}, ["h2", "h3"]),
        ({"image_properties": {"hypervisor_type": "qemu"}}, ["h2", "h3", "h1"]),
        ({"image_properties": {"img_hv_type": "xen"}}, ["h3"]),
        ({"group": GroupWish("anti-affinity", {"h2": 1})}, ["h3", "h1"]),
        ({"group": GroupWish("anti-affinity", {"h2": 1}, max_server_per_host=2)}, ["h2", "h3", "h1"]),
        ({"group": GroupWish("affinity", {"h1": 2})}, ["h1"]),
        ({"group": GroupWish("affinity")}, ["h2", "h3", "h1"]),
        ({"group": GroupWish("soft-anti-affinity", {"h2": 9})}, ["h2", "h3", "h1"]),
        ({"hints": {"different_host": "s1"}, "hosts_of": {"s1": "h2"}}, ["h3", "h1"]),
        ({"hints": {"different_host": ["s1", "s2"]}, "hosts_of": {"s1": "h2", "s2": "h3"}}, ["h1"]),
        ({"hints": {"same_host": ["s1"]}, "hosts_of": {"s1": "h3"}}, ["h3"]),
        ({"hints": {"same_host": ["gone"]}}, []),
    ],
)
def test_who_is_chosen(wishes: dict[str, Any], expected: list[str]) -> None:
    assert chosen(three(), request(**wishes)) == expected


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"up": False}, "down"),
        ({"enabled": False}, "disabled"),
        ({"reported_at": NOW - 75}, "no report for 75 s"),
    ],
)
def test_hosts_that_are_not_alive(facts: dict[str, Any], found: str) -> None:
    made = snapshot((provider(1), report(1, **facts)), (provider(2), report(2)))
    ranking = select(request(), made, NOW)
    assert [made.host(row) for row in ranking.order.tolist()] == ["h2"]
    result = ranking.why.filters[0]
    assert (result.name, result.hosts_in, result.hosts_out) == ("ComputeFilter", 2, 1)
    assert result.rejected == [Rejected("h1", found)]
    assert chosen(made, request(force_host="h1")) == ["h1"]  # an administrator may


def test_a_host_that_never_reported_is_none() -> None:
    made = snapshot((provider(1), report(1)))
    made.update_providers([provider(2)], [])
    assert chosen(made, request()) == ["h1"]
    assert select(request(), made, NOW).why.hosts == 1


def test_why_tells_counts_and_numbers() -> None:
    why = select(request(vcpus=10, availability_zone="b"), three(), NOW).why
    told = [(one.name, one.hosts_in, one.hosts_out, one.wanted) for one in why.filters]
    assert told == [
        ("ComputeFilter", 3, 3, "up and enabled"),
        ("AvailabilityZoneFilter", 3, 2, "b"),
        ("VCPU", 2, 2, 10),
        ("MEMORY_MB", 2, 2, 512),
        ("DISK_GB", 2, 2, 1),
    ]
    assert why.filters[1].rejected == [Rejected("h1", "a")]
    none = select(request(vcpus=40), three(), NOW).why
    assert none.filters[1].rejected == [Rejected("h2", 32.0), Rejected("h3", 16.0), Rejected("h1", 4.0)]
    assert [(one.name, one.hosts_in) for one in none.filters[2:]] == [("MEMORY_MB", 0), ("DISK_GB", 0)]
    assert none.best == []
    best = why.best[0]
    assert (best.host, best.node, best.weight) == ("h2", node(2), 3.0)
    assert best.parts == {"RAMWeigher": 1.0, "CPUWeigher": 1.0, "DiskWeigher": 1.0}


def test_twenty_hosts_are_told_at_most() -> None:
    why = select(request(vcpus=100), cloud(500), NOW).why
    assert [len(one.rejected) for one in why.filters[:2]] == [20, 20]
    assert len(select(request(), cloud(500), NOW).why.best) == 20


def test_soft_affinity_weighs() -> None:
    made = snapshot(*((provider(n), report(n)) for n in (1, 2, 3)))
    assert chosen(made, request(group=GroupWish("soft-affinity", {"h2": 1, "h3": 2})))[0] == "h3"
    assert chosen(made, request(group=GroupWish("soft-anti-affinity", {"h2": 1, "h3": 2}))) == ["h1", "h2", "h3"]


def test_equals_come_in_random_order() -> None:
    made = snapshot(*((provider(n), report(n)) for n in range(8)))
    firsts = {chosen(made, request())[0] for _ in range(60)}
    assert len(firsts) > 3


# ---- trees and sharing


def test_a_tree_offers_what_its_best_provider_has() -> None:
    child = Summary(
        uuid=node(11), name="pf", generation=1, root_provider_uuid=node(1), parent_provider_uuid=node(1),
        inventories={"SRIOV_NET_VF": Inventory(4, max_unit=2)}, traits=["CUSTOM_PHYSNET1"],
    )  # fmt: skip
    made = snapshot((provider(1, traits=[AVX]), report(1)), (provider(2), report(2)))
    made.update_providers([child], [])
    asked = {"extra_specs": {"resources:SRIOV_NET_VF": "2", "trait:CUSTOM_PHYSNET1": "required"}}
    assert chosen(made, request(**asked)) == ["h1"]
    assert chosen(made, request(extra_specs={"resources:SRIOV_NET_VF": "3"})) == []
    # a forbidden trait excludes only where nobody in the tree is without it
    assert set(chosen(made, request(extra_specs={f"trait:{AVX}": "forbidden"}))) == {"h1", "h2"}
    made.update_providers([], [node(11)])
    assert chosen(made, request(**asked)) == []
    assert chosen(made, request(extra_specs={f"trait:{AVX}": "forbidden"})) == ["h2"]


def test_a_sharing_provider_serves_its_aggregate() -> None:
    pool = Summary(
        uuid=node(99), name="pool", generation=1, root_provider_uuid=node(99),
        inventories={"DISK_GB": Inventory(10_000)}, traits=["MISC_SHARES_VIA_AGGREGATE"], aggregates=["agg"],
    )  # fmt: skip
    made = snapshot((provider(1, aggregates=["agg"]), report(1)), (provider(2), report(2)))
    assert chosen(made, request(disk_gib=5000)) == []
    made.update_providers([pool], [])
    assert chosen(made, request(disk_gib=5000)) == ["h1"]
    made.update_providers([provider(2, aggregates=["agg"])], [])
    assert set(chosen(made, request(disk_gib=5000))) == {"h1", "h2"}
    made.update_providers([], [node(99)])
    assert chosen(made, request(disk_gib=5000)) == []


# ---- claims under way, and what the feeds say of them


def test_claims_under_way_are_deducted_until_the_feed_shows_them() -> None:
    made = snapshot((provider(1, vcpus=4), report(1)))
    row = made.row_of_host("h1")
    assert row is not None
    made.deduct("s1", row, {"VCPU": 3}, NOW)
    assert chosen(made, request(vcpus=2)) == []
    made.settle("s1")
    made.settle("s1")
    assert chosen(made, request(vcpus=2)) == ["h1"]
    made.deduct("s1", row, {"VCPU": 3}, NOW)
    made.update_providers([provider(1, vcpus=4)], [])  # somebody else's change
    assert chosen(made, request(vcpus=2)) == []
    made.granted("s1")
    made.update_providers([provider(1, vcpus=4, used=3)], [])
    assert chosen(made, request(vcpus=1)) == ["h1"]  # counted once
    assert chosen(made, request(vcpus=2)) == []
    made.deduct("s2", row, {"VCPU": 1}, NOW)
    made.expire(NOW + 60)
    assert chosen(made, request(vcpus=1)) == ["h1"]


def test_a_host_installed_anew_replaces_itself() -> None:
    made = snapshot((provider(1), report(1)))
    made.update_providers([provider(7, vcpus=2)], [])
    made.report(report(7, host="h1", reported_at=NOW))
    assert chosen(made, request()) == ["h1"]
    assert made.row_of_host("h1") == made.row_of_node(node(7))
    assert chosen(made, request(vcpus=4)) == []


def test_older_reports_are_dropped_and_missing_hosts_forgotten() -> None:
    made = snapshot((provider(1), report(1)), (provider(2), report(2)))
    made.report(report(1, enabled=False, reported_at=NOW - 30))
    assert set(chosen(made, request())) == {"h1", "h2"}
    made.keep_only([node(1)], NOW)
    assert chosen(made, request()) == ["h1"]
    made.report(report(3, reported_at=NOW + 1))
    made.update_providers([provider(3)], [])
    made.keep_only([node(1)], NOW)  # the list was asked for before that host reported
    assert set(chosen(made, request())) == {"h1", "h3"}


def test_a_sign_of_life_undoes_no_change() -> None:
    made = snapshot((provider(1), report(1, changed_at=NOW - 5)))
    made.report(report(1, enabled=False, reported_at=NOW - 1, changed_at=NOW))
    made.report(report(1, reported_at=NOW + 1, changed_at=NOW - 5))  # written before the change, heard after it
    assert chosen(made, request()) == []
    made.report(report(1, enabled=False, reported_at=NOW + 1, changed_at=NOW))
    made.report(report(1, reported_at=NOW + 2))  # of a conductor that tells no time of a change
    assert chosen(made, request()) == ["h1"]


def test_without_the_feed_everything_passes_that_placement_named() -> None:
    made = snapshot((provider(1), report(1, free_memory_mib=10)), (provider(2), report(2, free_memory_mib=99)))
    made.room_known = False
    rows = [made.row_of_host("h1"), made.row_of_host("h2")]
    ranking = select(request(vcpus=10_000), made, NOW, only=[row for row in rows if row is not None])
    assert [made.host(row) for row in ranking.order.tolist()] == ["h2", "h1"]  # by what they reported
    assert ranking.why.filters[0].name == "Placement"
    assert select(request(), made, NOW, only=[]).order.tolist() == []


# ---- properties


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 40),
    vcpus=st.integers(1, 9),
    zone=st.sampled_from([None, "z0", "z1"]),
)
def test_the_same_seed_selects_the_same(seed: int, count: int, vcpus: int, zone: str | None) -> None:
    made, asked = cloud(count), request(vcpus=vcpus, availability_zone=zone)

    def once() -> list[str]:
        ids.use_seed(seed)
        return chosen(made, asked)

    first = copy_context().run(once)
    assert copy_context().run(once) == first
    for host in first:
        number = int(host[1:])
        assert number % 7 != 0
        assert (8 if number % 10 == 0 else number % 5) + vcpus <= 8
        assert zone in (None, f"z{number % 2}")
    assert len(first) == sum(
        1 for n in range(count) if n % 7 and (8 if n % 10 == 0 else n % 5) + vcpus <= 8 and zone in (None, f"z{n % 2}")
    )


def _calls(hosts: int) -> int:
    """How many Python functions a select calls on a cloud of that size."""
    made = cloud(hosts)
    asked = request(vcpus=5, availability_zone="z1", extra_specs={f"trait:{AVX}": "required"})
    select(asked, made, NOW)  # columns and imports are there from now on
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        select(asked, made, NOW)
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_does_not_grow_with_the_hosts() -> None:
    small, large = _calls(1_000), _calls(10_000)
    assert large < small * 1.1
    assert large < 2_000


@pytest.mark.parametrize(
    ("have", "wanted", "expected"),
    [
        ("gold", "gold", True),
        ("gold", "silver", False),
        (16, "= 8", True),
        (16, "== 8", False),
        (16, "!= 8", True),
        (16, "<= 8", False),
        ("16", ">= 8", True),
        ("x", ">= 8", False),
        ("abc", "s== abc", True),
        ("abc", "s< abd", True),
        ("x86_64", "<in> 86", True),
        (["aes", "avx"], "<all-in> aes avx", True),
        (["aes"], "<all-in> aes avx", False),
        ("12", "<or> 11 <or> 12", True),
        (None, "anything", False),
        ("", "", True),
    ],
)
def test_the_language_of_extra_specs(have: Any, wanted: str, expected: bool) -> None:
    assert matches(have, wanted) is expected

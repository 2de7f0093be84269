# SPDX-License-Identifier: Apache-2.0
"""Asks, judges, asks again; repairs what was confirmed.

A living cloud moves between two answers, so a finding counts only when a second
look a moment later has it too. Repairs are calls of published APIs, made as the
service and only for findings that a fresh look still has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.insight.check.facts import Facts, Thing, gather
from cumulet.insight.check.rules import RULES, Call, Rule
from cumulet.kernel import clock
from cumulet.kernel.errors import Fault


class Finding(msgspec.Struct, frozen=True):
    """One broken invariant."""

    rule: str
    id: str
    sentence: str
    repair: list[str] = []
    """The calls that mend it, as text."""
    mended_by: str = ""


class Verdict(msgspec.Struct):
    """What a check found."""

    clean: bool
    findings: list[Finding]
    unread: dict[str, str]
    """Services that did not answer → why."""
    looked_at: dict[str, int]


class Repaired(msgspec.Struct):
    """What became of one repair."""

    rule: str
    id: str
    done: bool
    told: str = ""


def judge(facts: Facts) -> list[tuple[Rule, Thing]]:
    """All that is broken, in the order of the rules."""
    return [(rule, found) for rule in RULES if facts.has(*rule.needs) for found in rule.find(facts)]


async def check(session: ServiceSession, between: float) -> Verdict:
    """What is broken now and still so ``between`` seconds later."""
    facts, found = await _confirmed(session, between)
    findings = [
        Finding(
            rule.name, str(one["id"]), rule.sentence.format_map(one), [_text(call, one) for call in rule.repair],
            rule.mended_by,
        )
        for rule, one in found
    ]  # fmt: skip
    return Verdict(not findings and not facts.unread, findings, facts.unread, facts.counts)


async def repair(session: ServiceSession, wanted: Collection[tuple[str, str]], between: float) -> list[Repaired]:
    """Mend the findings (rule, id) that are still there; those that are gone are left out."""
    _, found = await _confirmed(session, between)
    done = []
    for rule, one in found:
        key = (rule.name, str(one["id"]))
        if key in wanted and rule.repair:
            done.append(Repaired(*key, *await _mend(session, rule, one)))
    return done


async def _confirmed(session: ServiceSession, between: float) -> tuple[Facts, list[tuple[Rule, Thing]]]:
    facts = await gather(session)
    found = judge(facts)
    if not found:
        return facts, []
    before = {(rule.name, str(one["id"])) for rule, one in found}
    await clock.sleep(between)
    facts = await gather(session)
    return facts, [(rule, one) for rule, one in judge(facts) if (rule.name, str(one["id"])) in before]


async def _mend(session: ServiceSession, rule: Rule, one: Thing) -> tuple[bool, str]:
    for call in rule.repair:
        path, body = call.filled(one)
        try:
            await session.call(
                call.service.format_map(one), call.method, path, body, version=call.version, as_service=True
            )
        except Fault as fault:
            return False, fault.message
    return True, ""


def _text(call: Call, one: dict[str, Any]) -> str:
    path, body = call.filled(one)
    return f"{call.service.format_map(one)}: {call.method} {path}" + (f" {body}" if body is not None else "")

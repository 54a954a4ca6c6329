"""A comparison said three ways: lines for a terminal, Markdown for a pull request, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from guard.audit.stats import quantile
from guard.lab.recorded import Answers, Traffic
from guard.lab.replay import Comparison, Row
from guard.model import Json, Sensitivity
from guard.policy.classify import PolicySet, find
from guard.stepup.visible import visible

ENOUGH: Final = 5
"""Prompts about one tool before anything is suggested about them."""

_ROWS: Final = 20


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison and what it was drawn from. `words` name the two sides, such as "recorded" and a folder."""

    words: tuple[str, str]
    comparison: Comparison
    traffic: Traffic
    suggestions: tuple[str, ...]

    @property
    def minutes(self) -> tuple[float, float] | None:
        """Minutes of approvers before and after, from the median of measured waits; None when none was measured."""
        overall = quantile(sorted(self.traffic.waits), 0.5)
        if overall is None:
            return None
        before = after = 0.0
        for (server, tool, _), row in self.comparison.rows.items():
            answers = self.traffic.answers.get((server, tool), Answers())
            wait = quantile(sorted(answers.waits), 0.5)
            seconds = overall if wait is None else wait
            before += row.people_before * seconds / 60
            after += row.people * seconds / 60
        return before, after

    def changed(self) -> list[tuple[tuple[str, str, str], Row]]:
        """The rows in which anything changes, the most new challenges first."""
        rows = [(key, row) for key, row in self.comparison.rows.items() if row.requirement]
        return sorted(rows, key=lambda pair: (-pair[1].new, -pair[1].gone, -pair[1].other, pair[0]))

    # ------------------------------------------------------------------ the three forms

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield from (visible(line) for line in self._head())
        for (server, tool, principal), row in self.changed():
            change = ", ".join(f"{count}x {was} -> {is_}" for (was, is_), count in sorted(row.requirement.items()))
            yield visible(f"  {server} {tool} by {principal}: {row.calls} calls; {change}")
        yield from (visible(f"unanswered: {line}") for line in self._unanswered())
        yield from (visible(f"suggestion: {line}") for line in self.suggestions)

    def markdown(self) -> Iterator[str]:
        """For a pull request; every name is code, so that none of them is markup."""
        head, *rest = self._head()
        yield f"### Policy replay: {_code(self.words[0])} → {_code(self.words[1])}"
        yield ""
        yield f"**{head}**"
        yield ""
        yield from (f"- {line}" for line in rest)
        if rows := self.changed():
            yield ""
            yield "| server | tool | agent | calls | new | removed | otherwise | requirement |"
            yield "|---|---|---|--:|--:|--:|--:|---|"
        for (server, tool, principal), row in rows[:_ROWS]:
            change = "<br>".join(f"{count}x {was} → {is_}" for (was, is_), count in sorted(row.requirement.items()))
            names = " | ".join(map(_code, (server, tool, principal)))
            yield f"| {names} | {row.calls} | {row.new} | {row.gone} | {row.other} | {change} |"
        if len(rows) > _ROWS:
            yield ""
            yield f"… and {len(rows) - _ROWS} more tools and agents."
        for title, lines in (("Not answered by the records", self._unanswered()), ("Suggestions", self.suggestions)):
            if found := list(lines):
                yield ""
                yield f"**{title}**"
                yield ""
                yield from (f"- {visible(line).replace('<', '&lt;')}" for line in found)

    def json(self) -> dict[str, Json]:
        """For programs."""
        total, minutes = self.comparison.total(), self.minutes
        return {
            "before": self.words[0],
            "after": self.words[1],
            "calls": total.calls,
            "challenges_before": total.before,
            "challenges_after": total.after,
            "new": total.new,
            "new_uncertain": total.new_uncertain,
            "removed": total.gone,
            "otherwise": total.other,
            "uncertain": total.uncertain,
            "continued": self.traffic.continued,
            "denied": self.traffic.denied,
            "skipped_lines": self.traffic.skipped,
            "approver_minutes_before": minutes and round(minutes[0], 1),
            "approver_minutes_after": minutes and round(minutes[1], 1),
            "measured_decisions": len(self.traffic.waits),
            "rows": [_row_json(key, row) for key, row in sorted(self.comparison.rows.items())],
            "unanswered": [
                {"rule": rule, "calls": count, "needs": sorted(needs)}
                for rule, (count, needs) in sorted(self.comparison.unanswered.items())
            ],
            "suggestions": list(self.suggestions),
        }

    # ------------------------------------------------------------------ parts

    def _head(self) -> Iterator[str]:
        total = self.comparison.total()
        yield (
            f"{total.calls} calls: {total.new} new challenges, {total.gone} removed, {total.other} with another "
            f"requirement; {total.before} challenges before, {total.after} after"
        )
        minutes, measured = self.minutes, len(self.traffic.waits)
        if minutes is None:
            yield "approver minutes: no decision of a person was measured in these records"
        else:
            of = f"median wait of {measured} measured decisions"
            yield f"approver minutes: {minutes[0]:.1f} before, {minutes[1]:.1f} after ({of})"
        if total.uncertain:
            yield (
                f"{total.uncertain} calls are uncertain, {total.new_uncertain} of the new challenges among them: their "
                "records do not hold what a condition names, and each is counted as its stricter branch"
            )
        if self.traffic.continued:
            yield f"{self.traffic.continued} calls that went on with or joined an earlier challenge count once"
        if self.traffic.denied:
            yield f"{self.traffic.denied} calls that were refused outright are not replayed"
        if self.traffic.skipped:
            yield f"{self.traffic.skipped} lines are no records"

    def _unanswered(self) -> Iterator[str]:
        for rule, (count, needs) in sorted(self.comparison.unanswered.items()):
            fields = sorted(name.removeprefix("args.") for name in needs if name.startswith("args."))
            located = sorted(name for name in needs if name.startswith("source."))
            others = sorted(name for name in needs if not name.startswith(("args.", "source.")))
            remedy = f"; to know, opt in with log: [{', '.join(fields)}]" if fields else ""
            remedy += f"; to know {', '.join(located)}, name a database under [geo] in guard.toml" if located else ""
            missing = f"; no record holds {', '.join(others)}" if others else ""
            yield f"{rule} for {count} calls{remedy}{missing}"


def _row_json(key: tuple[str, str, str], row: Row) -> dict[str, Json]:
    return {
        "server": key[0],
        "tool": key[1],
        "principal": key[2],
        "calls": row.calls,
        "before": row.before,
        "after": row.after,
        "new": row.new,
        "removed": row.gone,
        "otherwise": row.other,
        "uncertain": row.uncertain,
        "requirement": [
            {"before": was, "after": is_, "calls": count} for (was, is_), count in sorted(row.requirement.items())
        ],
    }


def _code(name: str) -> str:
    return "`" + visible(name).replace("`", "'").replace("|", "\\|") + "`"


def suggestions(
    traffic: Traffic, comparison: Comparison, policies: PolicySet, irreversible: Iterable[str]
) -> Iterator[str]:
    """Tags that only cost prompts: every prompt was approved, drift never doubted one, and they would be asked again.

    Never said about a critical tool or an effect that cannot be undone: there the prompt is the point.
    """
    lasting = frozenset(irreversible)
    asked = {(server, tool) for (server, tool, _), row in comparison.rows.items() if row.after}
    for (server, tool), found in sorted(traffic.answers.items()):
        if (
            (server, tool) not in asked
            or found.prompts < ENOUGH
            or found.approved < found.prompts
            or found.denied
            or found.expired
            or found.doubted
        ):
            continue
        policy = policies.policies.get(server)
        if policy is None:
            yield f"{server} {tool}: {found.prompts} prompts, all approved, and no file describes {server}; tag it"
            continue
        entries = find(policy.entries.get("tool", ()), tool)
        if not entries:
            yield f"{server} {tool}: {found.prompts} prompts, all approved, and no entry names it; tag it"
        elif all(one.sensitivity < Sensitivity.CRITICAL and not one.effects & lasting for one in entries):
            wait = quantile(sorted(found.waits), 0.5)
            median = f", median wait {wait:.0f} s" if wait is not None else ""
            place = entries[0].place
            yield (
                f"{server} {tool}: {found.prompts} prompts, all approved, none of them unusual{median}; "
                f"consider less at {place.file}:{place.line}"
            )

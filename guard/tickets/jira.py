"""Changes in Jira, through its REST API (`GET /rest/api/3/issue/{key}`).

The state is the name of the issue's status, which stands for the approval too: a change reaches "Implementing" by being
approved. The window is in two date-time fields whose ids are the site's own (`customfield_10048`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from guard.model import Json
from guard.tickets.changes import Change, mapping, word


class Jira:
    """A `guard.tickets.changes.System`."""

    def __init__(self, *, start_field: str, end_field: str) -> None:
        """Take the ids of the fields that hold the window."""
        self._start, self._end = start_field, end_field

    def request(self, ticket: str) -> tuple[str, Mapping[str, str]]:
        """Ask for the issue's status and window."""
        return f"/rest/api/3/issue/{ticket}", {"fields": f"status,{self._start},{self._end}"}

    def change(self, answer: Json) -> Change:
        """The change an issue is. One that was moved has another key by now.

        Raises:
            ValueError: it has another form.
        """
        issue = mapping(answer)
        fields = mapping(issue.get("fields"))
        return Change(
            number=word(issue.get("key")),
            state=word(mapping(fields.get("status")).get("name")),
            begins=_time(fields.get(self._start)),
            ends=_time(fields.get(self._end)),
        )


def _time(value: Json) -> datetime | None:
    """A date-time field, such as 2026-11-25T08:00:00.000+0000; None when it is empty."""
    return None if value is None else datetime.strptime(word(value), "%Y-%m-%dT%H:%M:%S.%f%z")

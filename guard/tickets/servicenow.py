"""Change requests of ServiceNow, through its Table API (`GET /api/now/table/change_request`).

States and approvals are the stored values, not the displayed ones: -2 is Scheduled, -1 Implement, and an approved
change has `approval` "approved". Stored times are in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from guard.model import Json
from guard.tickets.changes import Change, mapping, word


class ServiceNow:
    """A `guard.tickets.changes.System`."""

    def request(self, ticket: str) -> tuple[str, Mapping[str, str]]:
        """Ask for the change request of this number; two of them would be no answer."""
        return "/api/now/table/change_request", {
            "sysparm_query": f"number={ticket}",
            "sysparm_fields": "number,state,approval,on_hold,start_date,end_date",
            "sysparm_display_value": "false",
            "sysparm_limit": "2",
        }

    def change(self, answer: Json) -> Change:
        """The one change request in `result`.

        Raises:
            ValueError: there is not exactly one, or it has another form.
        """
        found = mapping(answer).get("result")
        if not isinstance(found, list) or len(found) != 1:
            raise ValueError("the change system knows no such ticket")
        one = mapping(found[0])
        return Change(
            number=word(one.get("number")),
            state=word(one.get("state")),
            approval=word(one.get("approval")),
            on_hold=word(one.get("on_hold", "false")) != "false",
            begins=_time(word(one.get("start_date"))),
            ends=_time(word(one.get("end_date"))),
        )


def _time(text: str) -> datetime | None:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if text else None

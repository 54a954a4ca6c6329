"""The approval console: pages for people, rendered here, readable without the script.

Following a link changes nothing. Somebody without a login sees where a challenge stands and no more; what a person
may not decide about looks the same as what does not exist. Deciding takes a fresh code or a fresh assertion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import Final
from urllib.parse import urlencode, urlsplit

import anyio.to_thread
import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from guard.errors import GuardError, IdentityError, NotFoundError, ProofInvalidError, WireError
from guard.factors import totp, webauthn
from guard.model import Challenge, Json, State
from guard.people import Range
from guard.reasons import Code
from guard.requirement import missing
from guard.stepup.given import FIELDS
from guard.stepup.view import render
from guard.web.api import seen, status_of
from guard.web.bodies import challenge_id, form_body
from guard.web.gate import PAGE_POLICY
from guard.web.listing import standing, wanted, whole
from guard.web.page import marked, show
from guard.web.page import seen as spelled
from guard.web.services import Services
from guard.web.sessions import Sessions
from guard.web.visits import Visitor, Visits, visitor

PAGE: Final = 50
_NEXT: Final = re.compile(r"/|/history|/challenges/c_[0-9A-Za-z]{16,64}(\?whole=1)?", re.ASCII)
_STATIC: Final = {"console.css": "text/css", "console.js": "text/javascript"}
_ENDED: Final = frozenset(state for state in State if not state.open)
_MINUTE: Final = 60
_FLASH: Final = {"approve": "Your approval counts.", "deny": "The call is refused."}


class Console:
    """The pages of one listener."""

    def __init__(self, services: Services, visits: Visits, sessions: Sessions) -> None:
        self._services, self._visits, self._sessions = services, visits, sessions
        self._store, self._clock = services.store, services.clock
        oidc = services.config.console.oidc
        self._provider = urlsplit(oidc.issuer).hostname if oidc and services.openid else ""
        folder = files("guard.web")
        self._files = {name: folder.joinpath("static", name).read_bytes() for name in _STATIC}
        mark = sha256(b"".join(self._files.values())).hexdigest()[:12]
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("guard.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(mark=mark, deployment=services.config.deployment)
        self._templates.filters.update(safe_text=lambda text: marked(spelled(text)), moment=_moment, span=_span)

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/", self.waiting, methods=["GET"]),
            Route("/waiting", self.rows, methods=["GET"]),
            Route("/history", self.history, methods=["GET"]),
            Route("/challenges/{id}", self.challenge, methods=["GET"]),
            Route("/challenges/{id}/view", self.view, methods=["GET"]),
            Route("/challenges/{id}/vote", self.vote, methods=["POST"]),
            Route("/login", self.login, methods=["GET"]),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/enrol", self.enrol, methods=["GET"]),
            Route("/static/{name}", self.static, methods=["GET"]),
        ]

    # ------------------------------------------------------------------ lists

    async def waiting(self, request: Request) -> Response:
        """What waits for this person's groups, oldest first."""
        if (person := visitor(request)) is None:
            return _to_login(request)
        return self.page(request, "waiting.html", await self._waiting(request, person))

    async def rows(self, request: Request) -> Response:
        """The list alone, for the page that is open already."""
        if (person := visitor(request)) is None:
            raise IdentityError(reason=Code.NO_CREDENTIAL)
        return self.page(request, "rows.html", await self._waiting(request, person))

    async def _waiting(self, request: Request, person: Visitor) -> Mapping[str, object]:
        groups, now = person.sees, self._clock.now()
        asked = Range(
            states=frozenset({State.PENDING}),
            groups=groups,
            named=person.person.groups,
            living=now,
            after=_place(request),
            limit=PAGE,
        )
        found = await anyio.to_thread.run_sync(self._store.challenges.page, asked)
        waiting, _ = await anyio.to_thread.run_sync(self._store.challenges.pulse, groups, now, asked.named)
        return {
            "challenges": [one for _, one in found],
            "next": found[-1][0] if len(found) == PAGE else 0,
            "first": not asked.after,
            "waiting": waiting,
            "missing": missing,
        }

    async def history(self, request: Request) -> Response:
        """What was decided, newest first, searchable by agent, server, tool, id and digest."""
        if (person := visitor(request)) is None:
            return _to_login(request)
        text, state = request.query_params.get("q", "").strip()[:200], request.query_params.get("state", "")
        asked = Range(
            states=wanted(state or None) or _ENDED | {State.SATISFIED},
            groups=person.sees,
            named=person.person.groups,
            text=text,
            after=_place(request),
            newest_first=True,
            limit=PAGE,
        )
        found = await anyio.to_thread.run_sync(self._store.challenges.page, asked)
        query = urlencode({"q": text, "state": state})
        values = {
            "challenges": [(one, standing(one, self._clock.now())) for _, one in found],
            "next": f"/history?{query}&from={found[-1][0]}" if len(found) == PAGE else "",
            "text": text,
            "state": state,
            "states": sorted(_ENDED | {State.SATISFIED}),
        }
        return self.page(request, "history.html", values)

    # ------------------------------------------------------------------ one challenge

    async def challenge(self, request: Request) -> Response:
        """The whole call for those who may decide about it; for everybody else, where it stands."""
        identifier = challenge_id(request)
        found = await anyio.to_thread.run_sync(self._store.challenges.get, identifier)
        if found is None:
            raise NotFoundError(f"there is no challenge {identifier}")
        person, state = visitor(request), standing(found, self._clock.now())
        if person is None or not person.may_see(found):
            return self.page(request, "standing.html", {"challenge": found, "state": state})
        return await self._whole(request, person, found)

    async def _whole(
        self,
        request: Request,
        person: Visitor,
        found: Challenge,
        *,
        error: str = "",
        status: HTTPStatus = HTTPStatus.OK,
    ) -> Response:
        """The page of a challenge in full; with an `error` when a vote on it did not count."""
        now = self._clock.now()
        everything = request.query_params.get("whole") == "1"

        def work() -> Mapping[str, object]:
            precedent = self._store.people.precedents.get(found.server, found.kind, found.name, now)
            own = {found.requirement.approvers} & person.sees
            if precedent is not None and precedent.approvers not in own:
                precedent = None  # another group's business
            kinds = {one.kind for one in self._store.factors.of(person.name) if not one.revoked and not one.locked}
            return {
                "shown": show(found, precedent, whole=everything),
                "passkeys": webauthn.KIND in kinds and self._services.passkeys.site is not None,
                "codes": totp.KIND in kinds,
            }

        state, flash = standing(found, now), _FLASH.get(request.query_params.get("done", ""), "")
        values: dict[str, object] = {
            "challenge": found,
            "state": state,
            "everything": everything,
            "error": error,
            "flash": "" if error else flash,
            "wanting": missing(found.requirement, found.proofs) if state is State.PENDING else "",
            "forbidden": self._rights(person, found),
            **await anyio.to_thread.run_sync(work),
        }
        return self.page(request, "challenge.html", values, status)

    def _rights(self, person: Visitor, found: Challenge) -> str:
        """Why this person cannot approve, in words; empty when they can. The factor decides when they do."""
        owner = person.name.casefold() in {found.principal.owner.casefold(), found.principal.on_behalf_of.casefold()}
        if owner and not self._services.config.approval.solo:
            return "You answer for this agent, so somebody else approves its calls. You may refuse it."
        if any(proof.subject.casefold() == person.name.casefold() for proof in found.proofs):
            return "You approved this already; it waits for somebody else."
        return ""

    async def view(self, request: Request) -> Response:
        """The text whose digest every vote carries, as it is."""
        found = await seen(self._services, request)
        return PlainTextResponse((await anyio.to_thread.run_sync(render, found)).text)

    async def vote(self, request: Request) -> Response:
        """Take a decision with a one-time code, from a form that needs no script."""
        found, person = await seen(self._services, request), visitor(request)
        fields = await form_body(request)
        if person is None or not person.vouches(fields.get("csrf", "")):
            raise IdentityError("this form is from another login; go back, reload, and decide again")
        decision, note = fields.get("decision", ""), fields.get("note", "")
        evidence: dict[str, Json] = {
            "as": person.name,
            "code": fields.get("code", "").strip(),
            "view_digest": fields.get("view", ""),
        }
        try:
            if decision == "approve":
                wish = {name: fields.get(name, "").strip() for name in FIELDS}
                await self._services.ceremony.prove(found.id, "approval", {**evidence, **wish, "note": note})
            elif decision == "deny":
                refused = {**evidence, "decision": "deny"}
                await self._services.ceremony.deny(found.id, "approval", refused, note)
            else:
                raise WireError("decide by one of the two buttons")
        except GuardError as error:
            again = await seen(self._services, request)
            return await self._whole(request, person, again, error=error.public, status=status_of(error))
        return RedirectResponse(f"/challenges/{found.id}?done={decision}", HTTPStatus.SEE_OTHER)

    # ------------------------------------------------------------------ who is looking

    async def login(self, request: Request) -> Response:
        """Ask who is there; somebody known goes on."""
        if visitor(request) is not None:
            return RedirectResponse(onward(request.query_params.get("next", "")), HTTPStatus.SEE_OTHER)
        return self._login(request, onward(request.query_params.get("next", "")))

    def _login(self, request: Request, going: str, error: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
        usable = self._services.passkeys.site is not None
        return self.page(
            request, "login.html", {"next": going, "error": error, "usable": usable, "openid": self._provider}, status
        )

    async def log_in(self, request: Request) -> Response:
        """Take a name and a one-time code, from a form that needs no script."""
        fields = await form_body(request)
        going = onward(fields.get("next", ""))
        evidence: dict[str, Json] = {"as": fields.get("name", "").strip(), "code": fields.get("code", "").strip()}
        try:
            return await self._sessions.log_in(evidence, RedirectResponse(going, HTTPStatus.SEE_OTHER))
        except ProofInvalidError as error:
            said = "This name and code do not belong together, or the code is not of now."
            return self._login(request, going, said, status_of(error))
        except GuardError as error:
            return self._login(request, going, error.public, status_of(error))

    async def log_out(self, request: Request) -> Response:
        """End the login."""
        fields, person = await form_body(request), visitor(request)
        answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        if person is not None and person.vouches(fields.get("csrf", "")):
            await anyio.to_thread.run_sync(self._visits.close, person)
            self._visits.keep(answer, "")
        return answer

    async def enrol(self, request: Request) -> Response:
        """Where an invitation leads. Its secret stands behind the #, which browsers do not send."""
        return self.page(request, "enrol.html", {})

    # ------------------------------------------------------------------ the rest

    async def static(self, request: Request) -> Response:
        """Style and script, by a name that changes with them."""
        name: str = request.path_params["name"]
        if name not in _STATIC:
            raise NotFoundError("there is no such page")
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(self._files[name], media_type=_STATIC[name], headers=headers)

    async def refused(self, request: Request, error: Exception) -> Response:
        """What cannot be shown, as a page."""
        assert isinstance(error, GuardError)
        return self.page(request, "refused.html", {"message": error.public}, status_of(error))

    def page(
        self, request: Request, template: str, values: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        """One page, of the visitor who asks."""
        text = self._templates.get_template(template).render(
            visitor=visitor(request), now=self._clock.now(), here=request.url.path, **values
        )
        return HTMLResponse(text, status_code=status, headers={"content-security-policy": PAGE_POLICY})


def _to_login(request: Request) -> Response:
    return RedirectResponse("/login?" + urlencode({"next": onward(request.url.path)}), HTTPStatus.SEE_OTHER)


def onward(value: str) -> str:
    """Where to go after the login: one of the console's own pages, whatever was asked for."""
    return value if _NEXT.fullmatch(value) else "/"


def _place(request: Request) -> int:
    return whole(request.query_params.get("from", "0"), "from")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """A time span in the largest unit that says enough."""
    whole = max(0, int(seconds))
    for unit, size in (("day", 86400), ("hour", 3600), ("min", _MINUTE)):
        if whole >= size:
            count = whole // size
            return f"{count} {unit}{'s' if count > 1 and unit != 'min' else ''}"
    return f"{whole} s"

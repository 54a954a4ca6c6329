"""guard.toml as a frozen, strict model.

Unknown keys are mistakes. Every mistake is reported as `FILE:LINE:COLUMN: message` with the form that
was expected. Paths are relative to the file. The settings reference is generated from the descriptions.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from guard.channels import Channel
from guard.errors import ConfigError
from guard.issuers import Issuer
from guard.listeners import Listener

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]

IRREVERSIBLE: Final = ("change_policy", "destroy", "execute", "export_secret", "grant_privilege", "move_money")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _public(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        message = 'expected an http(s) URL such as "https://guard.example"'
        raise ValueError(message)
    return value.rstrip("/")


class Proxy(Listener):
    """The MCP endpoint agents connect to: `http://<listen>/mcp/<server>`."""

    listen: str = Field("127.0.0.1:7000", description="address:port of the MCP endpoint")
    public_url: str | None = Field(
        None, description="the URL agents use, where it is not http(s):// and the Host they send, as behind a TLS proxy"
    )
    hold: float = Field(
        3.0, ge=0, le=50, description="seconds a paused call is held before it is answered; agents may override it"
    )
    refuse_same_uid: bool = Field(
        False,
        description="refuse critical tools of a stdio server that runs as the guard's own user",
    )
    max_in_flight: int = Field(256, ge=1, le=65536, description="calls one principal may have in flight at one server")
    max_children: int = Field(
        256, ge=1, le=65536, description="child processes `guard serve` may run for all principals"
    )
    max_children_per_principal: int = Field(
        32, ge=1, le=65536, description="child processes `guard serve` may run for one principal"
    )

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else _public(value)


class Console(Listener):
    """The console and API listener. Agents' keys never work here."""

    listen: str = Field("127.0.0.1:7001", description="address:port of the console and the API")
    public_url: str = Field(
        "http://localhost:7001", description="the URL people use; challenges link here, passkeys need a name in it"
    )

    login: float = Field(
        28_800.0, ge=60, le=604_800, description="seconds an approver stays logged in, to look; voting asks every time"
    )

    oidc: Issuer | None = Field(None, description="an OpenID provider approvers may log in with, to look")

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _public(value)

    def below(self, base: Path) -> Self:
        """The listener with its files' paths taken relative to a folder."""
        found = super().below(base)
        return found.model_copy(update={"oidc": self.oidc.below(base)}) if self.oidc else found


class Server(_Strict):
    """One tool server: by `url` (streamable HTTP) or by `command` (stdio child process)."""

    url: str | None = Field(None, description="streamable HTTP endpoint of the tool server")
    command: tuple[str, ...] | None = Field(None, description="program and arguments of a stdio tool server")
    env: dict[str, str] = Field(default_factory=dict, description="variables set for the child process")
    pass_env: tuple[str, ...] = Field(
        (), description="further names of variables the child inherits (PATH, HOME, LANG, TZ, TMPDIR always)"
    )
    cwd: Path | None = Field(None, description="working directory of the child process")
    headers: dict[str, str] = Field(
        default_factory=dict, description="headers added to every upstream request, for example its own Authorization"
    )
    big_integers: Literal["refuse", "exact"] = Field(
        "refuse", description="integers beyond 2^53-1: refuse them, or pass them when this server reads them exactly"
    )
    ca_file: Path | None = Field(
        None, description="PEM certificates that vouch for an https tool server, in place of the system's"
    )
    connect_timeout: float = Field(10.0, gt=0, description="seconds to connect to the tool server, TLS included")
    answer_timeout: float = Field(300.0, gt=0, description="seconds until the tool server must begin its answer")
    idle_timeout: float = Field(
        900.0, gt=0, description="seconds without a call or an open stream until `guard serve` stops a child process"
    )
    enforce: bool | None = Field(
        None, description="whether calls to it are held and refused; unset: as the top level says"
    )
    max_memory: int | None = Field(
        None, ge=16, description="megabytes of data each process of a child may hold (Linux); unset: no limit"
    )
    environment: Name | None = Field(
        None, description="environment this server works on, for policies that say `environment: {from: server}`"
    )
    pause_timeout: float = Field(
        60.0, gt=0, description="seconds an answer may pause once it has begun; event streams may pause for ever"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.url is None) == (self.command is None):
            message = 'give either url = "https://..." or command = ["program", "argument"]'
            raise ValueError(message)
        if self.command is not None and not self.command:
            message = "command must name a program"
            raise ValueError(message)
        if self.max_memory is not None and self.command is None:
            message = "max_memory is for a server with a command"
            raise ValueError(message)
        if self.ca_file is not None and (self.url is None or urlsplit(self.url).scheme != "https"):
            message = "ca_file is for an https url"
            raise ValueError(message)
        return self

    def below(self, base: Path) -> Self:
        """The server with its files' paths taken relative to a folder."""
        return self if self.ca_file is None else self.model_copy(update={"ca_file": base / self.ca_file})

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and (
            urlsplit(value).scheme not in {"http", "https"} or not urlsplit(value).hostname or urlsplit(value).fragment
        ):
            message = 'expected an http(s) URL such as "https://payments.example/mcp"'
            raise ValueError(message)
        return value


class AgentProfile(_Strict):
    """What one agent is for, and how it wants to be paused."""

    hold: float | None = Field(None, ge=0, le=50, description="seconds a paused call of this agent is held")
    learn: bool = Field(
        False, description="hold it longer when its client was seen to wait longer for an answer, at most 50 seconds"
    )
    legs: bool | None = Field(
        None,
        description="whether its client repeats a call by itself when it is told to (2026-07-28, `requestState`); "
        "unset: if it declares elicitation",
    )
    elicitation: bool | None = Field(
        None,
        description="whether its client is asked to open the challenge's page (URL elicitation); "
        "unset: if it declares that and was seen to answer",
    )
    tools: tuple[Annotated[str, StringConstraints(pattern=r"^[^/]+/.+$")], ...] = Field(
        (), description='globs over "SERVER/TOOL" it is meant to use: others are doubted, these are no news; unset: any'
    )
    destinations: tuple[Annotated[str, StringConstraints(min_length=2)], ...] = Field(
        (),
        description="domains, addresses, URLs and folders it is meant to send to: others are doubted, these are no "
        "news; unset: any",
    )
    success_text: bool = Field(
        False,
        description="say pauses and refusals of tools without an outputSchema as plain results, for clients that "
        "hide the text of errors from their model",
    )


_UNKNOWN_AGENT: Final = AgentProfile.model_construct()


class Approval(_Strict):
    """How people approve."""

    solo: bool = Field(False, description="let the agent's owner approve; written into every record")
    expires: float = Field(900.0, ge=5, le=86400, description="seconds a challenge stays open, and a grant usable")
    pending: int = Field(256, ge=1, le=65536, description="challenges one agent may have open at a time")
    remember: float = Field(
        2_592_000.0,
        ge=0,
        le=31_536_000,
        description="seconds the last approved call of each tool is kept, sealed, to show approvers what differs; "
        "0 keeps none",
    )
    pending_per_approver: int = Field(
        256,
        ge=1,
        le=65536,
        description="challenges that may wait for one person; more are refused until then",
    )
    cool_down: float = Field(60.0, ge=0, le=86400, description="seconds a refused call stays refused")
    back_off_after: int = Field(
        10, ge=1, le=100, description="challenges in a row refused or left unanswered after which an agent has to wait"
    )
    back_off: float = Field(
        60.0, ge=0, le=3600, description="seconds of its first wait; each further one doubles it, up to an hour"
    )
    escalate: dict[Name, Name] = Field(
        default_factory=dict,
        description="group that may decide as well after half of a challenge's time, by the group that is asked first",
    )
    notices_per_minute: int = Field(
        10, ge=1, le=600, description="challenges of one agent that people are told of within a minute, by each guard"
    )
    notify_after: float = Field(
        1.0,
        ge=0,
        le=300,
        description="seconds until people are told of a challenge, so that a signer answers first",
    )


class BreakGlass(_Strict):
    """Running one exact call in an emergency without the proofs it needs."""

    quota: int = Field(2, ge=0, le=100, description="how often glass may be broken within the window; 0: never")
    window: float = Field(86400.0, ge=60, le=2_592_000, description="seconds the quota is counted over")


class Drift(_Strict):
    """How unusual calls are told from normal ones."""

    budget: float = Field(
        0.02, gt=0, lt=0.5, description="share of an agent's normal calls that may be found unusual; thresholds follow"
    )
    key_age: float = Field(
        365.0, ge=0, le=36_500, description="days after which a key should have been rotated and is doubted; 0: never"
    )
    strangers: int = Field(
        5,
        ge=1,
        le=100,
        description="agents that may turn up within an hour at a network none of them was used from, before each of "
        "them is doubted",
    )


class ChangeSystem(_Strict):
    """Where the tickets of signed intents are checked: state, approval and window of the change."""

    system: Literal["servicenow", "jira"] = Field(description="which API the change system speaks")
    url: str = Field(description="its address, such as https://example.service-now.com")
    user: str = Field("", description="user of basic authentication; without one, the secret is a bearer token")
    secret_file: Path = Field(description="file with the password or token, readable by the guard's user only (0600)")
    states: frozenset[str] = Field(
        frozenset(),
        description="states in which a change may be carried out: stored values for ServiceNow (unset: -2 scheduled, "
        '-1 implement), names of a status for Jira (unset: "Awaiting implementation", "Implementing")',
    )
    approvals: frozenset[str] = Field(
        frozenset({"approved"}), description="values of `approval` that count; ServiceNow only"
    )
    start_field: str = Field("", description="id of the field with the window's beginning; Jira only, and needed there")
    end_field: str = Field("", description="id of the field with the window's end; Jira only, and needed there")
    required: bool = Field(True, description="whether every intent needs a ticket")
    timeout: float = Field(3.0, gt=0, le=30, description="seconds to connect, and between two pieces of the answer")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        found = _public(value)
        if urlsplit(found).scheme != "https" and urlsplit(found).hostname not in {"127.0.0.1", "localhost", "::1"}:
            message = "a change system is asked over https; http is for this machine only"
            raise ValueError(message)
        return found

    @model_validator(mode="after")
    def _window(self) -> Self:
        if (self.system == "jira") != bool(self.start_field and self.end_field):
            message = "Jira needs start_field and end_field, such as customfield_10048; ServiceNow has its own"
            raise ValueError(message)
        return self


class Geo(_Strict):
    """MaxMind database files (GeoLite2, GeoIP2), for policies that ask where a caller is; needs the extra `geo`."""

    country: Path | None = Field(None, description="file with countries (or cities), for `source.country`")
    asn: Path | None = Field(None, description="file with autonomous systems, for `source.asn`")

    def below(self, base: Path) -> Self:
        """The same with its files taken relative to a folder."""
        return self.model_copy(
            update={"country": self.country and base / self.country, "asn": self.asn and base / self.asn}
        )


class Config(_Strict):
    """The whole of guard.toml."""

    state: Path = Field(Path("state"), description="directory of database, ledger and keys; created 0700")
    policies: Path = Field(Path("tool_policies"), description="folder of policy files, one a server")
    deployment: Name = Field("guard", description="name of this installation; proofs are bound to it")
    environment: Name | None = Field(
        None, description="environment of this installation, for policies that say `environment: {from: deployment}`"
    )
    irreversible: frozenset[str] = Field(
        frozenset(IRREVERSIBLE), description="effects that cannot be undone; critical calls with one need consent"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="operational log on stderr")
    enforce: bool = Field(
        True,
        description="whether calls are held and refused; false only watches: everything is recorded as it would "
        "have been decided, and let through",
    )
    proxy: Proxy = Field(default_factory=Proxy.model_construct, description="the MCP endpoint")
    console: Console = Field(default_factory=Console.model_construct, description="the console and API endpoint")
    servers: dict[Name, Server] = Field(default_factory=dict, description="the tool servers, by name")
    agents: dict[Name, AgentProfile] = Field(default_factory=dict, description="jobs and pause settings by agent name")
    approval: Approval = Field(default_factory=Approval.model_construct, description="approvals by people")
    drift: Drift = Field(default_factory=Drift.model_construct, description="behavioural drift")
    break_glass: BreakGlass = Field(default_factory=BreakGlass.model_construct, description="emergencies")
    notify: dict[Name, Channel] = Field(default_factory=dict, description="channels that tell people, by name")
    tickets: ChangeSystem | None = Field(None, description="the change system of signed intents' tickets")
    geo: Geo | None = Field(None, description="databases that tell where an address is; read at start")
    file: Path = Field(Path("guard.toml"), exclude=True, description="where this was read from (not a setting)")

    @property
    def environments(self) -> dict[str, str]:
        """The environment of each server that has one, and under "" that of the deployment."""
        named = {name: server.environment for name, server in self.servers.items()} | {"": self.environment}
        return {name: environment for name, environment in named.items() if environment}

    @property
    def watched(self) -> frozenset[str]:
        """The servers whose calls are only watched."""
        return frozenset(
            name
            for name, server in self.servers.items()
            if not (self.enforce if server.enforce is None else server.enforce)
        )

    def profile(self, agent: str) -> AgentProfile:
        """How this agent wants to be paused."""
        return self.agents.get(agent, _UNKNOWN_AGENT)


def _place(text: str, path: tuple[int | str, ...]) -> tuple[int, int]:
    """Line and column of a dotted key in TOML text, as near as a scan can tell; (1, 1) if nowhere."""
    best: tuple[int, int] = (1, 1)
    table: tuple[str, ...] = ()
    wanted = tuple(str(part) for part in path)
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if table and wanted[: len(table)] == table:
                best = (number, line.index("[") + 1)
        elif (key := re.match(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=", line)) and (
            full := (*table, *(part.strip("\"'") for part in key[1].split(".")))
        ) == wanted[: len(full)]:
            return number, line.index(key[1]) + 1
    return best


def load(file: Path) -> Config:
    """Read and check a guard.toml.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has a mistake; every mistake on a line of its own.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"{file} does not exist; `guard init` writes one, --config names another"
        raise ConfigError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot be read: {error}"
        raise ConfigError(message, file=file) from error
    return parse(text, file)


def parse(text: str, file: Path) -> Config:
    """Check the text of a guard.toml that stands, or shall stand, at `file`.

    Raises:
        ConfigError: as `load`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+), column (\d+)", str(error))
        line, column = (int(at[1]), int(at[2])) if at else (len(text.splitlines()), 1)
        message = re.sub(r" \(at .*\)$", "", str(error)) + "; see docs/reference/settings.md"
        raise ConfigError(message, file=file, line=line, column=column) from error
    if "file" in data:
        line, column = _place(text, ("file",))
        message = "unknown setting `file`"
        raise ConfigError(message, file=file, line=line, column=column)
    try:
        config = Config.model_validate({**data, "file": file})
    except ValidationError as error:
        first, *others = sorted(((_place(text, e["loc"]), e) for e in error.errors()), key=lambda pair: pair[0])
        lines = [f"{file}:{line}:{column}: {_say(e['loc'], e['type'], e['msg'])}" for (line, column), e in others]
        (line, column), e = first
        message = "\n".join([_say(e["loc"], e["type"], e["msg"]), *lines])
        raise ConfigError(message, file=file, line=line, column=column) from error
    base = file.absolute().parent
    return config.model_copy(
        update={
            "state": base / config.state,
            "policies": base / config.policies,
            "proxy": config.proxy.below(base),
            "console": config.console.below(base),
            "tickets": config.tickets
            and config.tickets.model_copy(update={"secret_file": base / config.tickets.secret_file}),
            "geo": config.geo and config.geo.below(base),
            "servers": {name: server.below(base) for name, server in config.servers.items()},
            "notify": {name: channel.below(base) for name, channel in config.notify.items()},
        }
    )


def _say(where: tuple[int | str, ...], kind: str, message: str) -> str:
    """One mistake in the reader's words."""
    dotted = ".".join(str(part) for part in where) or "the file"
    if kind == "extra_forbidden":
        return f"unknown setting `{dotted}`; the settings are listed in docs/reference/settings.md"
    return f"`{dotted}`: {message.removeprefix('Value error, ')}"

"""Each kind of channel delivers a notice to a real receiver, or says why not; none says more than it may."""

from __future__ import annotations

import base64
import hmac
import json
import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import replace
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from guard.channels import Apprise, SecretRef, Smtp, Webhook
from guard.clock import SystemClock
from guard.config import Config
from guard.errors import ChannelError, ConfigError, IdentityError
from guard.notices import Notice, Stage
from guard.notify import desktop, words
from guard.notify.apprise import AppriseChannel
from guard.notify.desktop import DesktopChannel
from guard.notify.signing import check, key_of, signed
from guard.notify.smtp import SmtpChannel
from guard.notify.webhook import WebhookChannel
from tests import nouns
from tests.integration.test_tls import certificate
from tests.receivers import http_receiver, mail_server

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
CANARY = "hunter2"
CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("MAIL_PASSWORD", "open sesame")


def notice(stage: Stage = Stage.OPENED, **changes: object) -> Notice:
    challenge = nouns.challenge(arguments=json.dumps({"password": CANARY}), **changes)
    return words.notice(challenge, stage, groups=("approvers",), public_url="http://localhost:7001", now=nouns.NOW)


def webhook(url: str, **more: object) -> WebhookChannel:
    settings = {"kind": "webhook", "url": url, "secret": {"env": "HOOK_SECRET"}, **more}
    return WebhookChannel(Webhook.model_validate(settings), CLOCK)


def smtp(port: int, **more: object) -> SmtpChannel:
    settings = {"kind": "smtp", "host": "127.0.0.1", "port": port, "sender": "guard@example.com", "tls": "none"}
    return SmtpChannel(Smtp.model_validate(settings | {"to": ["ann@example.com", "ben@example.com"]} | more), CLOCK)


# ------------------------------------------------------------------ what is said


@pytest.mark.parametrize("stage", Stage)
def test_a_notice_holds_tool_server_agent_digest_and_sentences_and_no_argument(stage: Stage) -> None:
    one = notice(stage)
    for said in (words.title(one) + words.text(one), json.dumps(words.payload(one))):
        assert CANARY not in said
        if stage is not Stage.TEST:
            for known in ("refund", "payments", "deployer", "55555"):
                assert known in said
    assert "the owner tagged this as sensitive" in words.text(notice())


@pytest.mark.parametrize("stage", [Stage.OPENED, Stage.ESCALATED, Stage.BREAK_GLASS])
def test_a_notice_about_a_withheld_result_does_not_speak_of_running(stage: Stage) -> None:
    one = notice(stage, kind="result")
    assert "deployer wants what came back from refund on payments, which ran, tagged sensitive." in words.text(one)
    assert "deployer wants the result of refund on payments" in words.title(one)
    assert " run" not in words.text(one)


def test_the_only_link_is_the_challenges_page_and_carries_its_id_alone() -> None:
    one = notice()
    links = [word for word in words.text(one).split() if "://" in word]
    assert links == [f"http://localhost:7001/challenges/{one.challenge}"]


NAMES = st.one_of(st.text(max_size=80), st.from_regex(r"[a-z]{2,10}\.(com|evil)(/[a-z]*)?", fullmatch=True))


@given(NAMES)
def test_no_name_an_agent_chooses_becomes_a_link_or_markup(name: str) -> None:
    challenge = nouns.challenge(name=name)
    one = words.notice(challenge, Stage.OPENED, groups=("g",), public_url="http://localhost:7001", now=nouns.NOW)
    said = words.title(one) + words.text(one).replace(one.link, "")
    assert not set(said) & set("<>`*[]@&|\u202e\u200b\x1b")
    assert "://" not in said
    assert not any(label in said for label in (".com", ".evil"))


# ------------------------------------------------------------------ webhook


async def test_a_webhook_is_signed_as_standard_webhooks_says() -> None:
    with http_receiver() as hook:
        await webhook(hook.url).notify(notice())
    [(headers, body)] = hook.requests
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(b"k" * 32, content, sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert json.loads(body)["type"] == "challenge.opened"
    assert CANARY.encode() not in body


def test_the_signature_is_that_of_the_published_example() -> None:
    body = b'{"test": 2432232314}'
    made = signed(key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(("status", "lasting"), [(500, False), (503, False), (429, False), (404, True), (302, True)])
async def test_an_answer_that_is_no_success_is_a_failure_and_says_whether_to_try_again(
    status: int, lasting: bool
) -> None:
    with http_receiver() as hook:
        hook.statuses = [status]
        with pytest.raises(ChannelError) as failed:
            await webhook(hook.url).notify(notice())
    assert failed.value.lasting is lasting
    assert len(hook.requests) == 1, "redirects are not followed"


async def test_a_receiver_that_is_not_there_is_a_failure_that_may_pass() -> None:
    with pytest.raises(ChannelError) as failed:
        await webhook("http://127.0.0.1:9/hook").notify(notice())
    assert not failed.value.lasting


async def test_a_receiver_that_hangs_can_be_given_up() -> None:
    with http_receiver() as hook:
        hook.hanging = True
        with anyio.move_on_after(0.3) as bound:
            await webhook(hook.url).notify(notice())
        assert bound.cancelled_caught


HEADERS = signed(key_of(SECRET), "n_1", nouns.NOW, b"{}")


@pytest.mark.parametrize(
    ("headers", "body", "now"),
    [
        (HEADERS, b"{ }", nouns.NOW),
        (HEADERS, b"{}", nouns.NOW + 301),
        (HEADERS, b"{}", nouns.NOW - 301),
        ({**HEADERS, "webhook-id": "n_2"}, b"{}", nouns.NOW),
        ({**HEADERS, "webhook-timestamp": str(int(nouns.NOW) + 1)}, b"{}", nouns.NOW),
        ({**HEADERS, "webhook-signature": ""}, b"{}", nouns.NOW),
        ({**HEADERS, "webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v2,")}, b"{}", nouns.NOW),
        ({**HEADERS, "webhook-signature": "v1,é"}, b"{}", nouns.NOW),
        ({}, b"{}", nouns.NOW),
    ],
)
def test_a_request_that_is_changed_old_early_or_unsigned_does_not_verify(
    headers: Mapping[str, str], body: bytes, now: float
) -> None:
    with pytest.raises(IdentityError):
        check(key_of(SECRET), headers, body, now)
    check(key_of(SECRET), HEADERS, b"{}", nouns.NOW + 299)


@given(st.binary(max_size=64), st.binary(min_size=24, max_size=40))
def test_what_one_key_signs_only_that_key_verifies(body: bytes, key: bytes) -> None:
    made = signed(key, "n_1", nouns.NOW, body)
    check(key, made, body, nouns.NOW)
    with pytest.raises(IdentityError):
        check(key + b"x", made, body, nouns.NOW)


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_c2hvcnQ=", "whsec_***", SECRET[6:]])
def test_a_secret_that_is_short_or_of_another_form_is_refused_with_the_way_to_make_one(secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        key_of(secret)


# ------------------------------------------------------------------ mail


async def test_mail_goes_to_everybody_with_the_same_words() -> None:
    with mail_server() as box:
        await smtp(box.port).notify(notice())
    [mail] = box.mails
    assert mail.rcpt_tos == ["ann@example.com", "ben@example.com"]
    read = message_from_bytes(mail.content)
    assert read["Subject"] == words.title(notice())
    assert read["Auto-Submitted"] == "auto-generated"
    assert CANARY.encode() not in mail.content


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
@pytest.mark.parametrize("way", ["starttls", "tls"])
async def test_mail_is_protected_and_the_server_is_who_the_certificates_say(way: str, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    login = {"user": "guard", "password": {"env": "MAIL_PASSWORD"}}
    with mail_server(tls=tls, starttls=way == "starttls", password="open sesame") as box:
        await smtp(box.port, tls=way, ca_file=cert, **login).notify(notice())
        with pytest.raises(ChannelError):
            await smtp(box.port, tls=way, **login).notify(notice())
    assert len(box.mails) == 1


async def test_a_server_without_the_protection_the_settings_ask_for_gets_nothing() -> None:
    with mail_server() as box, pytest.raises(ChannelError) as failed:
        await smtp(box.port, tls="starttls").notify(notice())
    assert failed.value.lasting
    assert box.mails == []


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the test server's own word
async def test_a_wrong_password_lasts_and_a_busy_server_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(password="another") as box, pytest.raises(ChannelError) as failed:
        await smtp(box.port, user="guard", password={"env": "MAIL_PASSWORD"}).notify(notice())
    assert failed.value.lasting
    with mail_server(answer="451 later") as box, pytest.raises(ChannelError) as failed:
        await smtp(box.port).notify(notice())
    assert not failed.value.lasting


# ------------------------------------------------------------------ desktop, apprise


async def test_the_desktops_program_gets_the_words_as_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, program = tmp_path / "said", tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    await DesktopChannel().notify(notice())
    assert words.title(notice()) in said.read_text()
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ChannelError) as failed:
        await DesktopChannel().notify(notice())
    assert not failed.value.lasting


async def test_without_the_desktops_program_the_channel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ChannelError) as failed:
        await DesktopChannel().notify(notice())
    assert failed.value.lasting


def test_on_macos_the_words_are_arguments_of_a_fixed_script() -> None:
    one = replace(notice(), tool='"; do shell script "x')
    made = desktop.command(one, "darwin")
    assert made[0] == "osascript"
    assert [made[i] for i in range(1, 7, 2)] == ["-e"] * 3
    assert "shell script" not in "".join(made[2:7:2])


@pytest.mark.filterwarnings("ignore:.imghdr:DeprecationWarning")  # an import of apprise itself
async def test_apprise_delivers_to_the_service_its_url_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as hook:
        monkeypatch.setenv("CHAT", hook.url.replace("http://", "json://"))
        channel = AppriseChannel(Apprise.model_validate({"kind": "apprise", "url": {"env": "CHAT"}}))
        hook.statuses = [200]
        await channel.notify(notice())
        [(_, body)] = hook.requests
        assert json.loads(body)["title"] == words.title(notice())
        hook.statuses = [500]
        with pytest.raises(ChannelError):
            await channel.notify(notice())


def test_a_url_apprise_does_not_know_is_a_mistake_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT", "nonsense")
    with pytest.raises(ConfigError, match="apprise does not understand"):
        AppriseChannel(Apprise.model_validate({"kind": "apprise", "url": {"env": "CHAT"}}))


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "webhook", "url": "http://example.com/", "secret": {"env": "X"}}, "https URL"),
        ({"kind": "webhook", "url": "https://u:p@example.com/", "secret": {"env": "X"}}, "https URL"),
        ({"kind": "webhook", "url": "https://example.com/", "secret": "in clear"}, "secret"),
        ({"kind": "webhook", "url": "https://example.com/", "secret": {"env": "X", "file": "y"}}, "kept"),
        ({"kind": "smtp", "host": "mail.example.com", "tls": "none", "sender": "a@b", "to": ["c@d"]}, "not loopback"),
        ({"kind": "smtp", "host": "localhost", "sender": "a@b", "to": []}, "to"),
        ({"kind": "smtp", "host": "localhost", "sender": "a@b\r\nBcc: x@y", "to": ["c@d"]}, "sender"),
        ({"kind": "smtp", "host": "localhost", "sender": "a@b", "to": ["c@d"], "user": "u"}, "together"),
        ({"kind": "pigeon"}, "pigeon"),
    ],
)
def test_a_channel_that_leaks_or_makes_no_sense_is_refused(table: Mapping[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate({"notify": {"ops": table}})


def test_a_secret_is_read_from_where_it_is_kept_and_its_absence_is_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first\nsecond\n")
    assert SecretRef(file=Path("secret")).below(tmp_path).read() == "first"
    for missing in (SecretRef(env="NOT_SET_ANYWHERE"), SecretRef(file=tmp_path / "none")):
        with pytest.raises(ConfigError, match=r"NOT_SET_ANYWHERE|none"):
            missing.read()

"""The approval console in a real Chromium: what people see, and what their decisions do."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress

import pytest
from playwright.sync_api import Error, expect

from guard.stepup.view import render
from tests.browser.conftest import POLICY, House
from tests.guards import PATIENCE
from tests.visitors import Person, add_person, cancel, forget_logins, invite

XSS = [
    '<script>fetch("/x")</script>',
    '"><img src=x onerror=alert(1)>',
    "</script><svg/onload=alert(1)>",
    "{{7*7}}${7*7}#{7*7}",
    "javascript:alert(1)",
    "' onmouseover='x",
    "<!--",
    "&lt;script&gt;",
    '<iframe srcdoc="<script>1</script>">',
    "`${alert(1)}`",
]


def open_challenge(person: Person, challenge: str) -> None:
    """Go there, again when a page that at this moment followed its own challenge's change went first.

    Leaving a page that is about to replace itself can lose to it however often one tries; so what counts is that the
    page of this challenge is there, and a blank one came before it, which follows nothing.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(Error):
            person.page.goto("about:blank")
            person.page.wait_for_url("about:blank", timeout=1_000)  # the other page may have won
            person.page.goto(f"/challenges/{challenge}")
            person.page.wait_for_url(f"**/challenges/{challenge}", timeout=PATIENCE * 250)
            person.page.locator("main").wait_for()
            return
    raise AssertionError(f"the page of {challenge} does not stay open: {person.page.url}")


def approve(person: Person) -> None:
    person.page.get_by_role("button", name=re.compile("Approve .* with a passkey")).click()
    person.page.get_by_text("Your approval counts").wait_for()


# ------------------------------------------------------------------ deciding


def test_a_call_approved_with_a_passkey_runs_once(house: House, ann: Person) -> None:
    challenge, again = house.pause()
    open_challenge(ann, challenge)
    approve(ann)
    assert [again().ran, again().ran] == [True, False]
    [accepted] = [one for one in house.world.records("proof.accepted") if one["challenge_id"] == challenge]
    assert (accepted["proof"]["kind"], accepted["proof"]["class"]) == ("webauthn", "consent")


def test_a_refusal_with_its_reason_reaches_the_agent(house: House, ann: Person) -> None:
    challenge, again = house.pause()
    open_challenge(ann, challenge)
    ann.page.get_by_label("Reason").fill("not during the audit")
    ann.page.get_by_role("button", name="Refuse with a passkey").click()
    ann.page.get_by_text("The call is refused").wait_for()
    assert "not during the audit" in again().text


def test_two_people_are_two_passkeys_and_one_person_is_told_to_wait(house: House, ann: Person) -> None:
    challenge, again = house.pause("slow", {"seconds": 0})
    open_challenge(ann, challenge)
    approve(ann)
    expect(ann.page.get_by_text("Still required: a second person of group approvers")).to_be_visible()
    expect(ann.page.get_by_text("You approved this already")).to_be_visible()
    expect(ann.page.get_by_role("button", name="Approve")).to_have_count(0)
    ben = house.visitor()
    open_challenge(ben, challenge)
    expect(ben.page.get_by_text(f"consent by {ann.name}, webauthn")).to_be_visible()
    approve(ben)
    ben.close()
    assert again().ran


def test_the_page_works_by_keyboard_alone(house: House, ann: Person) -> None:
    challenge, again = house.pause()
    open_challenge(ann, challenge)
    ann.page.keyboard.press("Tab")
    expect(ann.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    wanted = ann.page.get_by_role("button", name=re.compile("Approve .* with a passkey"))
    for _ in range(20):
        ann.page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            break
    ann.page.keyboard.press("Enter")
    ann.page.get_by_text("Your approval counts").wait_for()
    assert again().ran


def test_without_script_a_code_logs_in_and_another_one_decides(house: House) -> None:
    phone = add_person(house.world, "paul")
    challenge, again = house.pause("note")
    context = house.browser.new_context(base_url=house.base, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/challenges/{challenge}")
    page.get_by_role("link", name="Log in").click()
    page.locator("summary").click()
    page.get_by_label("Name").fill("paul")
    code = phone.now()
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**/challenges/{challenge}")
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("used before")  # the code that logged in decides nothing
    assert not again().ran
    page.get_by_label("Code").fill(phone.at(time.time() + 30))  # the next one is good already
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("Your approval counts").wait_for()
    context.close()
    assert again().ran


def test_further_calls_are_allowed_with_the_passkey_that_approves_the_first(house: House, ann: Person) -> None:
    challenge, again = house.pause("variables")
    open_challenge(ann, challenge)
    ann.page.get_by_text("Allow further calls as well").click()
    ann.page.get_by_label("How many", exact=True).fill("1")
    ann.page.get_by_label("For how many minutes").fill("5")
    approve(ann)
    assert [again().ran for _ in range(3)] == [True, True, False]


def test_a_page_that_shows_an_older_state_decides_nothing(house: House, ann: Person) -> None:
    challenge, again = house.pause()
    open_challenge(ann, challenge)
    ann.page.evaluate("document.getElementById('challenge').dataset.view = '0'.repeat(64)")
    ann.page.get_by_role("button", name=re.compile("Approve")).click()
    expect(ann.page.get_by_role("alert")).to_contain_text("look at it again")
    assert not again().ran
    ann.errors.clear()  # the browser tells of the 403


def test_a_device_that_does_not_verify_its_user_decides_nothing(house: House) -> None:
    someone = house.visitor()
    challenge, again = house.pause()
    open_challenge(someone, challenge)
    someone.device.send("WebAuthn.setUserVerified", {"authenticatorId": someone.authenticator, "isUserVerified": False})
    someone.page.get_by_role("button", name=re.compile("Approve")).click()
    expect(someone.page.get_by_role("alert")).to_contain_text("The passkey was not used")
    someone.close()
    assert not again().ran


# ------------------------------------------------------------------ seeing


def test_the_list_and_an_open_page_follow_what_happens(house: House, ann: Person) -> None:
    ann.page.goto("/")
    first, _ = house.pause()
    card = ann.page.locator(f'a[href="/challenges/{first}"]')
    card.wait_for()
    cancel(house.world, first)
    expect(card).to_have_count(0)
    second, _ = house.pause()
    open_challenge(ann, second)
    cancel(house.world, second)
    ann.page.get_by_text("cancelled", exact=True).wait_for()


def test_the_page_says_everything_the_view_says_and_shows_every_argument(house: House, ann: Person) -> None:
    arguments = {"path": "prod/db", "nested": {"deep": [1, {"x": None}]}, "text": "line\nbreak"}
    challenge, _ = house.pause("wipe", arguments)
    open_challenge(ann, challenge)
    with house.world.desk() as desk:
        found = desk.store.challenges.get(challenge)
    assert found is not None
    squeezed = re.sub(r"\s+", "", ann.page.locator("main").inner_text())
    view = render(found, width=100_000)
    for line in view.text.splitlines():
        fact = line[11:] if not line.startswith(" ") else line
        parts = fact.split(", ") if line.startswith("challenge ") else [fact]  # the state stands at the top
        assert all(re.sub(r"\s+", "", part) in squeezed for part in parts), line
    assert ann.page.locator("#challenge").get_attribute("data-view") == render(found).digest
    assert ann.page.goto(f"/challenges/{challenge}/view").text() == render(found).text  # type: ignore[union-attr]


def test_hidden_and_lookalike_characters_and_padding_are_spelled_out(house: House, ann: Person) -> None:
    tricks = {"path": "tmp/\u202ebd/dorp\u202c", "as": "\u0440rod", "tag": "\U000e0070", "pad": "x" + " " * 4096 + "rm"}
    challenge, _ = house.pause("wipe", tricks)
    open_challenge(ann, challenge)
    shown = ann.page.locator(".arguments").inner_text()
    assert not {"\u202e", "\u202c", "\u0440", "\U000e0070"} & set(shown)
    for name in ("RIGHT-TO-LEFT OVERRIDE", "CYRILLIC SMALL LETTER ER", "TAG LATIN SMALL LETTER P", "⟨4096 spaces⟩"):
        expect(ann.page.locator("mark", has_text=name).first).to_be_visible()
    expect(ann.page.get_by_text("4 hidden or look-alike characters")).to_be_visible()


def test_a_long_call_says_what_is_cut_and_is_approved_where_nothing_is(house: House, ann: Person) -> None:
    challenge, again = house.pause("wipe", {"note": "\n" * 9000, "z_path": "the/hidden/one"})
    open_challenge(ann, challenge)
    expect(ann.page.locator(".arguments")).not_to_contain_text("the/hidden/one")
    expect(ann.page.get_by_text("Cut here")).to_be_visible()
    expect(ann.page.get_by_role("button", name="Approve")).to_have_count(0)
    expect(ann.page.get_by_role("button", name="Refuse")).to_have_count(1)
    ann.page.get_by_role("link", name="Show the whole call").click()
    expect(ann.page.locator(".arguments")).to_contain_text("the/hidden/one")
    approve(ann)
    assert again().ran


def test_the_last_approved_call_of_the_tool_is_compared(house: House, ann: Person) -> None:
    for arguments in ({"amount": 12, "to": "ACME"}, {"amount": 12000, "to": "ACME", "memo": "urgent"}):
        challenge, _ = house.pause("say", {**arguments, "line": "{}"})
        open_challenge(ann, challenge)
        if arguments["amount"] == 12:
            approve(ann)
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in ann.page.locator("tbody tr").all()
    }
    assert rows["amount changed"] == ["12", "12000"]
    assert rows["memo added"] == ["\u2013", '"urgent"']
    assert "to changed" not in rows


def test_what_another_group_approved_is_not_shown_for_comparison(house: House, ann: Person) -> None:
    challenge, _ = house.pause("note", {"secret": "for group approvers"})
    open_challenge(ann, challenge)
    approve(ann)
    house.world.write_everywhere(
        "server: {server}\nowner: x\napprovers: oncall\ntools:\n  note: {sensitivity: sensitive, require: consent}\n"
    )
    house.world.wait_for("policy.loaded", count=2)
    other = house.visitor("oncall")
    second, _ = house.pause("note")
    open_challenge(other, second)
    expect(other.page.get_by_text("None of this tool is remembered")).to_be_visible()
    assert "for group approvers" not in other.page.content()
    open_challenge(ann, second)
    expect(ann.page.get_by_text("You may not decide about this one")).to_be_visible()
    assert "number" not in ann.page.locator("main").inner_text()
    other.close()
    house.world.write_everywhere(POLICY)
    house.world.wait_for("policy.loaded", count=3)


def test_history_is_searched_by_agent_tool_and_digest(house: House, ann: Person) -> None:
    challenge, _ = house.pause()
    cancel(house.world, challenge)
    with house.world.desk() as desk:
        found = desk.store.challenges.get(challenge)
    assert found is not None
    card = ann.page.locator(f'a[href="/challenges/{challenge}"]')
    for text, count in (
        ("", 1),
        ("WIPE", 1),
        ("robot", 1),
        (found.digest[:10], 1),
        (challenge, 1),
        ("%", 0),
        ("x_y", 0),
    ):
        ann.page.goto("/history")
        ann.page.get_by_role("searchbox").fill(text)
        ann.page.get_by_role("button", name="Search").click()
        expect(card).to_have_count(count)
    ann.page.goto("/history?state=cancelled&q=wipe")
    expect(card).to_have_count(1)
    ann.page.goto("/history?state=denied")
    expect(card).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_a_phone_and_tell_a_screen_reader_what_is_what(house: House, dark: bool) -> None:
    challenge, _ = house.pause("wipe", {"path": "x" * 300, "list": list(range(50))})
    someone = house.visitor(size=(360, 740), dark=dark)
    for path in ("/", f"/challenges/{challenge}", "/history", "/login", "/enrol"):
        someone.page.goto(path)
        wide = someone.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, path
        expect(someone.page.get_by_role("main")).to_have_count(1)
        expect(someone.page.get_by_role("heading", level=1)).to_have_count(1)
        assert unnamed(someone) == []
        assert low_contrast(someone) == [], path
    someone.close()


def unnamed(person: Person) -> list[str]:
    """Fields and buttons without a name that a screen reader could say."""
    found: list[str] = person.page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]),textarea,select,button,a")].filter(
            (one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).map((one) => one.outerHTML)"""
    )
    return found


def low_contrast(person: Person) -> list[str]:
    """Texts whose contrast with what is behind them is below WCAG AA (4.5)."""
    found: list[str] = person.page.evaluate(
        """() => {
          const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
          const linear = (c) => c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4;
          const light = (color) => color.slice(0, 3).map(linear).reduce(
            (sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (one) => {
            for (; one; one = one.parentElement) {
              const color = rgb(getComputedStyle(one).backgroundColor);
              if (color.length < 4 || color[3] > 0.99) return color;
            }
            return [255, 255, 255];
          };
          return [...document.querySelectorAll("main *, header *")].filter((one) => one.offsetParent && !one.disabled &&
            [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).filter((one) => {
              const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
              return (a + 0.05) / (b + 0.05) < 4.5; }).map((one) => one.outerHTML.slice(0, 120)); }"""
    )
    return found


# ------------------------------------------------------------------ what pages never do


def test_no_text_of_an_agent_becomes_markup_or_script(house: House, ann: Person) -> None:
    fired: list[str] = []
    ann.page.on("dialog", lambda dialog: (fired.append(dialog.message), dialog.dismiss()))
    requests: list[str] = []
    ann.page.on("request", lambda request: requests.append(request.url))
    challenge, _ = house.pause("wipe", {f"k{place}": text for place, text in enumerate(XSS)} | dict.fromkeys(XSS, 1))
    open_challenge(ann, challenge)
    shown = ann.page.locator(".arguments").inner_text()
    for text in XSS:
        assert json.dumps(text, ensure_ascii=False)[1:-1] in re.sub(r"⟨U\+0060[^⟩]*⟩", "`", shown)
    ann.page.goto("/")
    ann.page.locator(f'a[href="/challenges/{challenge}"]').wait_for()
    assert ann.page.locator("main img, main iframe, main svg, main script").count() == 0
    assert fired == []
    assert all(url.startswith(house.base) for url in requests)


def test_a_link_from_another_site_changes_nothing_and_shows_only_where_it_stands(house: House, ann: Person) -> None:
    challenge, again = house.pause()
    page = ann.context.new_page()
    page.route(
        "http://chat.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<a href="{house.base}/challenges/{challenge}?done=approve&decision=approve">see</a>',
        ),
    )
    page.goto("http://chat.example/")
    page.get_by_role("link", name="see").click()
    page.get_by_role("link", name="Log in to see the call and decide").wait_for()
    assert "wipe" not in page.locator("main").inner_text()
    assert not again().ran
    page.get_by_role("link", name="Log in to see").click()  # from here on it is the console's own page that asks
    page.get_by_role("heading", name="robot wants to run wipe").wait_for()
    page.close()


def test_no_page_of_the_console_can_be_framed(house: House, ann: Person) -> None:
    challenge, _ = house.pause()
    page = ann.context.new_page()
    page.route(
        "http://evil.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<iframe src="{house.base}/challenges/{challenge}" allow="publickey-credentials-get *"></iframe>',
        ),
    )
    page.goto("http://evil.example/")
    frame = page.frames[-1]
    with pytest.raises(Error):
        frame.locator("main").wait_for(timeout=1000)
    page.close()


def test_a_login_that_was_ended_shows_nothing_more_and_its_page_asks_again(house: House) -> None:
    someone = house.visitor()
    forget_logins(house.world, someone.name)
    someone.page.wait_for_url("**/login?*")
    someone.close()


def test_an_invitation_that_was_used_says_so(house: House) -> None:
    link = invite(house.world, "quinn")
    first, second = (Person(house.browser, house.base) for _ in range(2))
    first.enrol(link)
    second.page.goto(link)
    second.page.get_by_role("button", name="Create the passkey").click()
    expect(second.page.get_by_role("alert")).to_contain_text("used already")
    first.close()
    second.close()

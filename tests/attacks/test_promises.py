"""Which promise answers which attack on approvals, console and factors: every record of the catalogue has one.

The replay (`test_replay.py`) sends what can be sent in messages; these three groups are about people, clocks and keys,
so their records are answered by tests that stand where the thing they are about is tested.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from guard.policy.conditions import compile_condition
from guard.policy.expression import SyntaxMistake

TESTS = Path(__file__).parents[1]
FILE = Path(__file__).parents[3] / "shared" / "attacks" / "attacks.jsonl"
GROUPS = {"approval", "console", "factor"}

CONSOLE, FACTORS, KEYS = "attacks/test_console_attacks.py", "unit/test_factors.py", "unit/test_passkeys.py"
DECIDE, CEREMONY, CRASH = "unit/test_decide.py", "unit/test_ceremony.py", "integration/test_crash.py"
VIEW, PAGE, LIMITS = "unit/test_view.py", "unit/test_page.py", "unit/test_limits.py"
FRONT, COST = "integration/test_http_front.py", "integration/test_console_cost.py"
CONDITIONS, SIGNER = "unit/test_policy_conditions.py", "integration/test_signer.py"

PROMISES: Mapping[str, tuple[str, ...]] = {
    "APR-001": (f"{DECIDE}::test_a_changed_call_after_approval_is_challenged_again",),
    "APR-004": (
        f"{DECIDE}::test_a_changed_call_after_approval_is_challenged_again",
        f"{DECIDE}::test_a_grant_changed_in_any_bound_field_no_longer_covers_the_call",
    ),
    "APR-005": ("unit/test_wire_canonical.py::test_a_call_digest_changes_with_whatever_it_binds",),
    "APR-007": (
        "unit/test_wire_canonical.py::test_spellings_of_a_number_have_one_text",
        "unit/test_wire_canonical.py::test_the_canonical_text_is_rfc_8785",
        f"{FRONT}::test_the_inspected_bytes_are_forwarded_unchanged_and_the_answer_comes_back_byte_exact",
    ),
    "APR-009": (
        f"{CEREMONY}::test_a_clock_that_is_set_back_gives_a_grant_no_second_life",
        f"{CEREMONY}::test_an_expired_or_revoked_grant_is_not_spent",
        "unit/test_machine.py::test_past_its_time_a_challenge_can_only_expire",
    ),
    "APR-011": ("integration/test_lifecycle.py::test_an_approval_that_comes_after_the_caller_left_runs_nothing",),
    "APR-012": (
        f"{CONSOLE}::test_apr_012_an_agent_opens_nothing_on_the_console_even_with_its_key_and_a_persons_cookie",
    ),
    "APR-013": (
        "unit/test_cli.py::test_approve_asks_for_nothing_it_was_not_given",
        "integration/test_votes.py::test_a_wrong_code_does_not_count",
    ),
    "APR-014": (
        f"{FACTORS}::test_the_secret_is_sealed_and_in_no_record",
        "unit/test_store_sql.py::test_state_is_private_to_its_owner_whatever_the_umask",
        "integration/test_hosted.py::test_the_ledger_covers_everything_that_ran",
    ),
    "APR-016": (f"{CONSOLE}::test_apr_016_and_017_neither_the_owner_nor_one_person_twice_makes_it_two",),
    "APR-017": (
        f"{CONSOLE}::test_apr_016_and_017_neither_the_owner_nor_one_person_twice_makes_it_two",
        "unit/test_quorum.py::test_one_person_with_two_factors_fills_one_place",
        "unit/test_identity.py::test_one_person_cannot_be_two_by_spelling",
    ),
    "APR-018": (f"{CONSOLE}::test_apr_018_a_removed_approvers_login_shows_and_decides_nothing",),
    "APR-019": (
        "unit/test_identity.py::test_a_revoked_agent_is_refused_as_soon_as_the_cache_is_invalidated",
        f"{DECIDE}::test_a_changed_call_after_approval_is_challenged_again",
    ),
    "APR-020": (
        f"{DECIDE}::test_a_grant_changed_in_any_bound_field_no_longer_covers_the_call",
        f"{CEREMONY}::test_on_other_terms_the_old_challenge_is_stale_and_a_new_one_opens",
    ),
    "APR-021": (f"{DECIDE}::test_a_changed_call_after_approval_is_challenged_again",),
    "APR-022": (
        f"{LIMITS}::test_one_person_has_only_so_many_calls_waiting_whichever_agents_ask",
        f"{LIMITS}::test_a_flood_is_on_record_once_a_minute",
        "unit/test_dispatch.py::test_one_agents_flood_neither_reaches_people_nor_hides_another_agents_call",
    ),
    "APR-023": (f"{CONSOLE}::test_apr_023_ids_cannot_be_guessed_nor_tried_out",),
    "APR-024": (f"{CONSOLE}::test_apr_024_of_an_approval_and_a_refusal_at_once_exactly_one_happens",),
    "APR-025": (f"{CONSOLE}::test_apr_025_following_a_link_never_decides",),
    "APR-027": (
        f"{FACTORS}::test_a_code_that_the_policy_does_not_take_is_not_spent",
        f"{CEREMONY}::test_a_kind_of_proof_that_the_policy_does_not_take_is_refused",
    ),
    "APR-028": (
        f"{SIGNER}::test_a_pulled_token_leaves_challenges_pending_and_signs_when_it_is_back",
        "unit/test_dispatch.py::test_a_channel_that_hangs_holds_up_no_other_and_is_given_up",
    ),
    "APR-029": ("attacks/test_promises.py::test_apr_029_no_condition_reads_what_a_caller_says_beside_its_arguments",),
    "APR-030": (
        f"{CONDITIONS}::test_a_window_follows_the_wall_clock_of_its_zone",
        f"{CONDITIONS}::test_a_window_past_midnight_belongs_to_the_day_it_starts_on",
    ),
    "APR-031": (
        f"{CRASH}::test_the_retry_after_the_restart_never_runs_the_call_a_second_time",
        f"{CRASH}::test_a_call_is_reported_as_unknown_exactly_when_nobody_knows_its_end",
    ),
    "APR-032": (
        f"{CONSOLE}::test_apr_032_what_was_not_shown_in_full_offers_no_approval",
        f"{PAGE}::test_a_short_page_is_bounded_and_counts_what_it_leaves_out",
    ),
    "APR-033": (f"{VIEW}::test_what_hides_or_deceives_is_spelled_out",),
    "APR-034": (
        f"{VIEW}::test_a_word_made_only_of_look_alikes_is_spelled_out",
        f"{VIEW}::test_different_texts_never_look_the_same",
    ),
    "APR-035": (
        f"{PAGE}::test_a_whole_page_shows_every_character_of_the_arguments",
        f"{VIEW}::test_the_pretty_form_is_the_same_json_with_every_character_of_it",
    ),
    "APR-036": (f"{VIEW}::test_a_tool_name_cannot_forge_a_line_of_the_view",),
    "CON-001": (
        f"{CONSOLE}::test_con_001_another_site_decides_nothing_with_a_victims_cookie",
        f"{CONSOLE}::test_con_001_a_cookie_without_the_logins_token_changes_nothing",
    ),
    "CON-003": (
        f"{CONSOLE}::test_con_003_and_011_nothing_can_be_framed_or_is_kept_by_a_cache",
        "browser/test_console.py::test_no_page_of_the_console_can_be_framed",
    ),
    "CON-004": (f"{CONSOLE}::test_con_004_a_name_that_was_rebound_gets_no_page_and_no_data",),
    "CON-005": (
        f"{CONSOLE}::test_con_005_nothing_an_agent_says_is_markup",
        "browser/test_console.py::test_no_text_of_an_agent_becomes_markup_or_script",
    ),
    "CON-006": (f"{CONSOLE}::test_con_005_nothing_an_agent_says_is_markup",),
    "CON-007": (f"{CONSOLE}::test_con_007_a_login_leads_to_no_other_site",),
    "CON-008": (
        f"{CONSOLE}::test_con_008_a_login_has_a_secret_of_its_own_in_a_cookie_no_script_and_no_other_site_gets",
    ),
    "CON-009": (f"{CONSOLE}::test_con_009_the_event_stream_is_for_those_who_are_logged_in_here",),
    "CON-010": (f"{CONSOLE}::test_con_010_another_teams_challenge_does_not_exist",),
    "CON-011": (f"{CONSOLE}::test_con_003_and_011_nothing_can_be_framed_or_is_kept_by_a_cache",),
    "CON-013": (
        f"{COST}::test_the_list_of_ten_thousand_pending_challenges_comes_within_200_ms",
        f"{COST}::test_the_page_of_a_challenge_weighs_at_most_50_kb_whatever_an_agent_asks",
    ),
    "CON-014": (
        f"{KEYS}::test_an_assertion_that_is_wrong_in_one_thing_is_refused_and_the_right_one_still_counts",
        f"{KEYS}::test_an_assertion_is_bound_to_call_person_decision_and_view",
        f"{KEYS}::test_an_assertion_counts_once_although_its_counter_stays_0",
        f"{KEYS}::test_a_counter_that_goes_back_is_refused",
    ),
    "CON-016": (
        f"{CONSOLE}::test_con_016_errors_and_odd_paths_tell_nothing",
        f"{CONSOLE}::test_con_016_nobody_sees_an_argument_without_a_login",
    ),
    "FAC-001": (
        f"{FACTORS}::test_a_current_code_counts_once",
        f"{FACTORS}::test_a_code_of_one_challenge_does_not_serve_another",
    ),
    "FAC-002": (f"{FACTORS}::test_fifty_threads_with_one_code_have_one_winner",),
    "FAC-003": (
        f"{CONSOLE}::test_fac_003_guesses_over_many_challenges_connections_and_the_login_share_one_limit",
        f"{FACTORS}::test_fifty_threads_guessing_have_five_guesses_and_one_alarm",
    ),
    "FAC-004": (f"{CONSOLE}::test_fac_004_only_six_ascii_digits_are_a_code_and_every_try_counts",),
    "FAC-005": (f"{FACTORS}::test_a_code_counts_one_step_early_or_late_and_no_further",),
    "FAC-006": (f"{FACTORS}::test_a_clock_set_back_opens_no_used_code",),
    "FAC-007": (f"{FACTORS}::test_the_secret_is_sealed_and_in_no_record",),
    "FAC-008": (
        f"{FACTORS}::test_a_signature_over_the_bare_document_or_id_is_void",
        f"{FACTORS}::test_a_signature_is_void_when_any_bound_field_changes",
    ),
    "FAC-009": (
        f"{FACTORS}::test_garbage_is_no_signature",
        f"{KEYS}::test_a_registration_that_is_wrong_or_of_a_weak_key_enrols_nothing_and_keeps_the_link",
    ),
    "FAC-010": (
        f"{FACTORS}::test_der_padding_whitespace_and_zeros_are_no_spelling_of_a_signature",
        "unit/test_machine.py::test_a_factor_answers_a_challenge_once",
    ),
    "FAC-011": (f"{FACTORS}::test_another_workloads_key_is_refused",),
    "FAC-012": (
        f"{FACTORS}::test_a_revoked_or_locked_key_is_refused_at_once",
        f"{FACTORS}::test_a_signature_stands_until_its_key_is_revoked",
    ),
    "FAC-013": (f"{FACTORS}::test_only_p256_keys_can_be_enrolled",),
    "FAC-014": (
        f"{SIGNER}::test_a_pulled_token_leaves_challenges_pending_and_signs_when_it_is_back",
        f"{FACTORS}::test_garbage_is_no_signature",
    ),
    "FAC-017": ("unit/test_denial.py::test_an_order_sent_again_changes_nothing_and_is_void_after_five_minutes",),
    "FAC-020": (f"{CONSOLE}::test_fac_020_a_code_that_logged_in_decides_nothing_nor_the_other_way_round",),
    "FAC-022": (
        "unit/test_cli.py::test_an_agent_gets_no_code_generator",
        f"{FACTORS}::test_owner_stranger_and_agent_are_refused_and_lose_no_code",
    ),
}
"""Every record, and the tests that show what becomes of it."""

UNTESTED: Mapping[str, str] = {
    "FAC-021": "codes, signatures, tokens and digests are compared in constant time (`hmac.compare_digest`, pyotp, the "
    "library of signatures); a timing test on a machine that others use would show its noise",
}
"""Records that no test here answers, and why; none may be critical or high."""


@pytest.mark.parametrize("named", ["meta.env", "_meta.env", "headers.env", "env", "source.env", "principal.env"])
def test_apr_029_no_condition_reads_what_a_caller_says_beside_its_arguments(named: str) -> None:
    with pytest.raises(SyntaxMistake):
        compile_condition(f'{named} == "staging"')


@cache
def functions(file: str) -> frozenset[str]:
    """The tests of a file."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_promise_that_answers_an_attack_is_there() -> None:
    named = {promise for promises in PROMISES.values() for promise in promises}
    gone = sorted(one for one in named if one.partition("::")[2] not in functions(one.partition("::")[0]))
    assert not gone
    assert not PROMISES.keys() & UNTESTED.keys()


@pytest.mark.skipif(not FILE.exists(), reason=f"there is no attack corpus in {FILE.parent}")
def test_every_attack_on_approvals_console_and_factors_has_its_promise() -> None:
    records = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    grave = {one["id"]: one["severity"] for one in records if one["group"] in GROUPS}
    assert sorted(grave.keys() - PROMISES.keys() - UNTESTED.keys()) == []
    assert sorted(name for name in UNTESTED if grave.get(name) in {"critical", "high"}) == []

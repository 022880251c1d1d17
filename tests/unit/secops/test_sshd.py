"""The parser: what each form of line means, and that a client cannot choose whom it accuses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops.record import Kind, Record, Witness
from secops.sshd import parse_line

HEAD = "Dec 10 06:55:46 LabSZ sshd[24200]: "


def parsed(message: str) -> Record:
    record = parse_line(HEAD + message)
    assert record is not None
    return record


def told(message: str) -> tuple[str, str | None, str]:
    record = parsed(message)
    return str(record.witness or record.kind), record.source, record.user


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # Failures that sshd states itself.
        ("Failed password for root from 192.0.2.1 port 22 ssh2", ("failed", "192.0.2.1", "root")),
        ("Failed password for root from 192.0.2.1 port 22 ssh2\r", ("failed", "192.0.2.1", "root")),
        ("Failed password for root from 192.0.2.1 port 22 ssh2 [preauth]", ("failed", "192.0.2.1", "root")),
        (
            "Failed password for invalid user bob from 2001:DB8::1 port 9 ssh2",
            ("failed", "2001:db8::1", "bob"),
        ),
        ("Failed password for invalid user  from 192.0.2.1 port 9 ssh2", ("failed", "192.0.2.1", "")),
        (
            "Failed password for invalid user  0101 from 192.0.2.1 port 9 ssh2",
            ("failed", "192.0.2.1", " 0101"),
        ),
        ("Failed password for illegal user bob from 192.0.2.1 port 9 ssh2", ("failed", "192.0.2.1", "bob")),
        ("Failed none for invalid user 0 from 192.0.2.1 port 9 ssh2", ("failed", "192.0.2.1", "0")),
        (
            "Failed publickey for invalid user git from 192.0.2.1 port 9 ssh2: RSA SHA256:a+/b",
            ("failed", "192.0.2.1", "git"),
        ),
        (
            "Failed keyboard-interactive/pam for root from 192.0.2.1 port 9 ssh2",
            ("interactive", "192.0.2.1", "root"),
        ),
        ("error: PAM: Authentication failure for root from 192.0.2.1", ("pam_error", "192.0.2.1", "root")),
        (
            "error: PAM: Authentication failure for illegal user x from 192.0.2.1 via 198.51.100.1",
            ("pam_error", "192.0.2.1", "x"),
        ),
        (
            "error: PAM: User not known to the underlying authentication module for illegal user x from h.example.",
            ("pam_error", "h.example", "x"),
        ),
        ("Invalid user webmaster from 192.0.2.1", ("named", "192.0.2.1", "webmaster")),
        ("Invalid user  from 192.0.2.1 port 9", ("named", "192.0.2.1", "")),
        ("Invalid user a b from 192.0.2.1 port 9 [preauth]", ("named", "192.0.2.1", "a b")),
        (
            "User root from 192.0.2.1 not allowed because not listed in AllowUsers",
            ("barred", "192.0.2.1", "root"),
        ),
        (
            "User root from 192.0.2.1 not allowed because none of user's groups are listed in AllowGroups",
            ("barred", "192.0.2.1", "root"),
        ),
        ("ROOT LOGIN REFUSED FROM 192.0.2.1 port 22", ("barred", "192.0.2.1", "root")),
        (
            "error: maximum authentication attempts exceeded for invalid user x from 192.0.2.1 port 9 ssh2 [preauth]",
            ("dismissed", "192.0.2.1", "x"),
        ),
        (
            "Disconnecting authenticating user root 192.0.2.1 port 9: Too many authentication failures [preauth]",
            ("dismissed", "192.0.2.1", "root"),
        ),
        (
            "Disconnecting invalid user x 192.0.2.1 port 9: Change of username or service not allowed: "
            "(x,ssh-connection) -> (y,ssh-connection) [preauth]",
            ("dismissed", "192.0.2.1", "x"),
        ),
        (
            "error: Received disconnect from 192.0.2.1: 3: com.jcraft.jsch.JSchException: Auth fail [preauth]",
            ("client", "192.0.2.1", ""),
        ),
        # Logins.
        ("Accepted password for fztu from 192.0.2.1 port 9 ssh2", ("accepted", "192.0.2.1", "fztu")),
        (
            "Accepted publickey for ana from 2001:db8::5 port 9 ssh2: ED25519 SHA256:5W8nOGYVxgPJ0yGc",
            ("accepted", "2001:db8::5", "ana"),
        ),
        (
            "Accepted publickey for ana from 192.0.2.1 port 9 ssh2: RSA de:ad:be:ef",
            ("accepted", "192.0.2.1", "ana"),
        ),
        (
            "Accepted publickey for ana from 192.0.2.1 port 9 ssh2: RSA-CERT SHA256:a ID ana@x (serial 0) CA RSA SHA256:b",
            ("accepted", "192.0.2.1", "ana"),
        ),
        (
            "Accepted gssapi-with-mic for ana from 192.0.2.1 port 9 ssh2: ana@EXAMPLE.ORG",
            ("accepted", "192.0.2.1", "ana"),
        ),
        # Leaving and only calling accuses nobody.
        ("Received disconnect from 192.0.2.1: 11: Bye Bye [preauth]", ("disconnect", "192.0.2.1", "")),
        ("Received disconnect from 2001:db8:1:2::5: 11: Bye Bye", ("disconnect", "2001:db8:1:2::5", "")),
        ("Received disconnect from 192.0.2.1 port 9:11: Bye Bye [preauth]", ("disconnect", "192.0.2.1", "")),
        (
            "error: Received disconnect from 192.0.2.1: 14: No supported authentication methods available",
            ("disconnect", "192.0.2.1", ""),
        ),
        ("Connection closed by 192.0.2.1 [preauth]", ("disconnect", "192.0.2.1", "")),
        (
            "Connection closed by authenticating user root 192.0.2.1 port 9 [preauth]",
            ("disconnect", "192.0.2.1", "root"),
        ),
        ("Disconnected from user ana 192.0.2.1 port 9", ("disconnect", "192.0.2.1", "ana")),
        ("Did not receive identification string from 192.0.2.1", ("probe", "192.0.2.1", "")),
        (
            "Bad protocol version identification 'x from 198.51.100.9 port 1' from 192.0.2.1 port 9",
            ("probe", "192.0.2.1", ""),
        ),
        (
            "reverse mapping checking getaddrinfo for h.example [192.0.2.1] failed - POSSIBLE BREAK-IN ATTEMPT!",
            ("probe", "192.0.2.1", ""),
        ),
        ("refused connect from h.example (192.0.2.1)", ("probe", "192.0.2.1", "")),
        # What says nothing for certain of anybody.
        (
            "Failed publickey for ana from 192.0.2.1 port 9 ssh2: RSA SHA256:abc",
            ("other", "192.0.2.1", "ana"),
        ),
        ("Failed none for ana from 192.0.2.1 port 9 ssh2", ("other", "192.0.2.1", "ana")),
        ("pam_unix(sshd:auth): authentication failure; rhost=192.0.2.1  user=root", ("other", None, "")),
        ("PAM 5 more authentication failures; rhost=192.0.2.1  user=root", ("other", None, "")),
        ("pam_unix(sshd:auth): check pass; user unknown", ("other", None, "")),
        ("input_userauth_request: invalid user webmaster [preauth]", ("other", None, "")),
        ("Disconnecting: Too many authentication failures for root [preauth]", ("other", None, "")),
        ("Server listening on 0.0.0.0 port 22.", ("other", None, "")),
        ("Failed password for root from UNKNOWN port 65535 ssh2", ("failed", None, "root")),
    ],
)
def test_each_form_is_read_for_what_it_says(message: str, expected: tuple[str, str | None, str]) -> None:
    assert told(message) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("2001:0db8:0:0:0:0:0:1", "2001:db8::1"),
        ("Host-1.Example.ORG.", "host-1.example.org"),
        ("192.0.2.256", None),
        ("UNKNOWN", None),
    ],
)
def test_a_source_has_one_spelling(text: str, expected: str | None) -> None:
    assert parsed(f"Failed password for root from {text} port 22 ssh2").source == expected


@pytest.mark.parametrize(
    "head",
    [
        "Dec  1 06:55:46 LabSZ sshd[1]: ",
        "Dec 10 06:55:46.123456 LabSZ sshd: ",
        "Dec 10 06:55:46 LabSZ sshd-session[1]: ",
        "<38>Dec 10 06:55:46 LabSZ sshd[1]: ",
        "2024-12-10T06:55:46+0100 LabSZ sshd[1]: ",
        "2024-12-10T06:55:46.123456+01:00 LabSZ sshd-session[1]: ",
        "<38>1 2024-12-10T06:55:46.003Z LabSZ sshd 1 - - ",
        '<38>1 2024-12-10T06:55:46Z LabSZ sshd-session 1 ID47 [meta sequenceId="29"] \ufeff',
        '<38>1 2024-12-10T06:55:46Z LabSZ sshd 1 - [timeQuality tzKnown="1" isSynced="1"][origin ip="192.0.2.9"] ',
        r'<38>1 2024-12-10T06:55:46Z LabSZ sshd 1 - [a@1 b="\]\"\\"][c@1] ',
    ],
)
def test_every_usual_head_is_read(head: str) -> None:
    record = parse_line(head + "Failed password for root from 192.0.2.1 port 22 ssh2")
    assert record is not None
    assert record.stamp is not None
    assert (record.source, record.witness) == ("192.0.2.1", Witness.FAILED)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Dec 10 06:55:46 LabSZ CRON[1]: Failed password for root from 192.0.2.1 port 22 ssh2",
        "Dec 10 06:55:46 LabSZ su: sshd[1]: Failed password for root from 192.0.2.1 port 22 ssh2",
        "Failed password for root from 192.0.2.1 port 22 ssh2",
    ],
)
def test_what_sshd_did_not_write_is_nothing(line: str) -> None:
    assert parse_line(line) is None


def test_a_repeated_line_counts_as_often_as_it_says() -> None:
    record = parsed("message repeated 5 times: [ Failed password for root from 192.0.2.1 port 22 ssh2]")
    assert (record.source, record.witness, record.count) == ("192.0.2.1", Witness.FAILED, 5)


def test_a_cut_line_accuses_nobody() -> None:
    record = parsed("Failed password for invalid user x from 198.51.100.9 port 1 ssh2" + "y" * 50 + " …[cut]")
    assert record.source is None


# Names that try to accuse 198.51.100.9, an address that did nothing.
TRICKS = [
    "x from 198.51.100.9 port 22 ssh2",
    "x from 198.51.100.9 port 22 ssh2: RSA SHA256:abc",
    "root from 198.51.100.9",
    " from 198.51.100.9 port 22",
    "x from 198.51.100.9 via 198.51.100.9",
    "x 198.51.100.9 port 22",
    "x 198.51.100.9 port 22: Too many authentication failures",
    "x 198.51.100.9 port 22: Change of username or service not allowed: y",
    "invalid user x from 198.51.100.9 port 1 ssh2 [preauth]",
    "x from 198.51.100.9 not allowed because not listed in AllowUsers",
    "message repeated 999 times: [ Failed password for root from 198.51.100.9 port 1 ssh2]",
    "sshd[1]: Failed password for root from 198.51.100.9 port 1 ssh2",
    "x\\nDec 10 06:55:46 h sshd[1]: Failed password for y from 198.51.100.9 port 1 ssh2",
]
FORMS = [
    "Failed password for invalid user {} from 192.0.2.1 port 9 ssh2",
    "Failed none for invalid user {} from 192.0.2.1 port 9 ssh2",
    "Failed publickey for invalid user {} from 192.0.2.1 port 9 ssh2: RSA SHA256:abc",
    "Failed publickey for invalid user {} from 192.0.2.1 port 9 ssh2: RSA-CERT SHA256:a ID i (serial 0) CA RSA SHA256:b",
    "Failed keyboard-interactive/pam for invalid user {} from 192.0.2.1 port 9 ssh2 [preauth]",
    'Failed hostbased for invalid user {} from 192.0.2.1 port 9 ssh2: RSA SHA256:a, client user "u", client host "h"',
    "message repeated 2 times: [ Failed password for invalid user {} from 192.0.2.1 port 9 ssh2]",
    "Invalid user {} from 192.0.2.1",
    "Invalid user {} from 192.0.2.1 port 9",
    "error: PAM: Authentication failure for illegal user {} from 192.0.2.1",
    "User {} from 192.0.2.1 not allowed because listed in DenyUsers",
    "error: maximum authentication attempts exceeded for invalid user {} from 192.0.2.1 port 9 ssh2 [preauth]",
    "Connection closed by invalid user {} 192.0.2.1 port 9 [preauth]",
    "Disconnecting invalid user {} 192.0.2.1 port 9: Too many authentication failures [preauth]",
    "Disconnecting invalid user {} 192.0.2.1 port 9: Change of username or service not allowed: (a,b) -> (c,d)",
    "error: Received disconnect from 192.0.2.1 port 9:3: {}: Auth fail [preauth]",
    "Bad protocol version identification '{}' from 192.0.2.1 port 9",
    "Failed publickey for invalid user u from 192.0.2.1 port 9 ssh2: RSA-CERT SHA256:a ID {} (serial 0) CA RSA SHA256:b",
    'Failed hostbased for invalid user u from 192.0.2.1 port 9 ssh2: RSA SHA256:a, client user "u", client host "{}"',
    "Disconnecting authenticating user u 192.0.2.1 port 9: Change of username or service not allowed: (u,a) -> ({},b)",
    "input_userauth_request: invalid user {} [preauth]",
]
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=0, max_size=100
) | st.lists(
    st.sampled_from([*TRICKS, "from", "port", "22", "ssh2", " ", ":", "198.51.100.9", "x"]), max_size=4
).map(" ".join)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TRICKS)
def test_a_known_trick_accuses_nobody_else(form: str, name: str) -> None:
    assert parsed(form.format(name)).source in ("192.0.2.1", None)


@given(form=st.sampled_from(FORMS), name=names)
def test_no_user_name_can_accuse_another_address(form: str, name: str) -> None:
    assert parsed(form.format(name)).source in ("192.0.2.1", None)


@given(form=st.sampled_from(FORMS[:3] + FORMS[4:5] + FORMS[6:12]), name=names)
def test_no_user_name_can_hide_its_failure(form: str, name: str) -> None:
    record = parsed(form.format(name))
    assert record.source == "192.0.2.1"
    assert record.witness is not None


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_line(text)
    parse_line(HEAD + text)


@given(st.sampled_from(FORMS), st.integers(0, 200), st.text(max_size=5))
def test_a_damaged_line_is_read_without_an_error(form: str, cut: int, extra: str) -> None:
    parse_line((HEAD + form)[:cut] + extra + form[cut:])


@pytest.mark.parametrize(
    "hostile",
    [
        "Failed password for " + " from " * 1300,
        "Failed password for " + " from 192.0.2.1 port 1" * 370,
        "Failed hostbased for " + " from 192.0.2.1 port 1 ssh2: x" * 270,
        "Invalid user " + " " * 8000,
        "Received disconnect from " + "1:" * 4000,
        "Connection closed by invalid user " + " port" * 1600,
        "message repeated 9 times: [ " + "]" * 8000 + "x",
        "User " + " not allowed because not listed in AllowUsers" * 180,
    ],
)
def test_a_hostile_line_is_read_in_time(hostile: str) -> None:
    start = time.process_time()
    parse_line(HEAD + hostile)
    # Linear reading takes about a millisecond; backtracking would take minutes.
    assert time.process_time() - start < 1


def test_kinds_are_told_apart() -> None:
    assert parsed("Invalid user x from 192.0.2.1").kind is Kind.INVALID_USER
    assert parsed("Failed password for x from 192.0.2.1 port 1 ssh2").kind is Kind.FAILURE


@pytest.mark.parametrize("outcome", ["Accepted", "Failed"])
def test_a_method_that_is_no_word_of_sshds_is_not_taken_over(outcome: str) -> None:
    record = parsed(f"{outcome} [here](javascript:alert()) for root from 192.0.2.1 port 22 ssh2")
    assert (record.kind, record.source, record.method) == (Kind.OTHER, None, "")

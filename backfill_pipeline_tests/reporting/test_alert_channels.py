"""What each channel sends to a real server, what it makes of the answer, and that no secret is ever told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydantic import SecretStr

from backfill_pipeline.errors import AlertError, SettingsError, TransientAlertError
from backfill_pipeline.reporting.alerts import http_post
from backfill_pipeline.reporting.alerts import mail as mail_module
from backfill_pipeline.reporting.alerts.channels import channels
from backfill_pipeline.reporting.alerts.http_post import RetryLaterError
from backfill_pipeline.reporting.alerts.mail import MailChannel
from backfill_pipeline.reporting.alerts.message import FACTS_MAX, TITLE_MAX, Alert, Kind, Severity, alert
from backfill_pipeline.reporting.alerts.plain import plain_text
from backfill_pipeline.reporting.alerts.slack import SlackChannel, slack_body
from backfill_pipeline.reporting.alerts.webhook import WebhookChannel
from backfill_pipeline.settings import load_alert_settings
from backfill_pipeline_tests.reporting.receivers import (
    ALERT_VARIABLES,
    HttpReceiver,
    certificate,
    dripping_server,
    http_receiver,
    scripted_server,
    smtp_receiver,
)
from backfill_pipeline_tests.stages.world import CHECKOUT

AT = datetime(2024, 3, 1, 12, 30, 15, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(KEY).decode()
UI = "https://dagster.example.org"
HOSTILE = 'a <!channel> & <b onclick="x">"b"</b>\r\nBcc: all@example.org\u202e*_`<script>'


def message(**given: object) -> Alert:
    values: dict[str, object] = {
        "title": "run 1a2b of mybank failed",
        "text": "The file is not there.",
        "remedy": "backfill resume my_bank",
        "facts": {"rows": 1_234_567, "nothing": None},
        "source_id": "my_bank",
        "run_id": "1a2b",
        **given,
    }
    return alert("run_failed/1a2b", Kind.RUN_FAILED, Severity.ERROR, at=AT, **values)  # type: ignore[arg-type]  # as above


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALERT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


# --- the message -----------------------------------------------------------------------------------------------------


def test_texts_are_one_line_without_what_hides_and_cut_where_they_are_too_long() -> None:
    made = message(title="x" * 999, text="a\u202eb\x00c\nd", facts={"long": "y" * 999})
    assert len(made.title) == TITLE_MAX
    assert made.title.endswith("…")
    assert made.text == "a b c d"
    assert len(made.facts[0].value) == 300
    assert "\n" not in made.facts[0].value


def test_plain_text_says_everything_once() -> None:
    assert plain_text(message(), UI) == (
        "[backfill] error: run 1a2b of mybank failed\n\nThe file is not there.\n\nWhat to do: backfill resume my_bank\n\n"
        "rows  1,234,567\nat    2024-03-01 12:30:15 UTC\nlink  https://dagster.example.org/runs/1a2b\n\n"
        "id run_failed/1a2b\n"
    )


# --- webhook ---------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_json_that_is_signed_as_standard_webhooks_are(http: HttpReceiver) -> None:
    channel = WebhookChannel(SecretStr(http.url), SecretStr(WEBHOOK_SECRET), UI)
    assert channel.send(message()) == ""
    (got,) = http.received
    assert got.headers["content-type"] == "application/json"
    assert got.json == {
        "type": "backfill.run_failed",
        "timestamp": "2024-03-01T12:30:15+00:00",
        "data": {
            "key": "run_failed/1a2b", "severity": "error", "title": "run 1a2b of mybank failed",
            "text": "The file is not there.", "remedy": "backfill resume my_bank", "source_id": "my_bank", "run_id": "1a2b",
            "link": f"{UI}/runs/1a2b", "facts": {"rows": "1,234,567"},
        },
    }  # fmt: skip
    identity, moment = got.headers["webhook-id"], got.headers["webhook-timestamp"]
    assert abs(int(moment) - time.time()) < 60
    expected = hmac.new(KEY, f"{identity}.{moment}.".encode() + got.body, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_what_the_documentation_shows_is_what_is_sent_and_how_it_is_checked(http: HttpReceiver) -> None:
    page = (CHECKOUT / "docs" / "alerts.md").read_text(encoding="utf-8")
    WebhookChannel(SecretStr(http.url), SecretStr(WEBHOOK_SECRET), UI).send(message())
    (got,) = http.received
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    example = json.loads(shown)
    assert example.keys() == got.json.keys()
    assert example["data"].keys() == got.json["data"].keys()  # type: ignore[attr-defined]  # an object
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Callable[[str, object, bytes], bool]] = {}
    exec(code, names)  # of our own page
    assert names["is_ours"](WEBHOOK_SECRET, got.headers, got.body)
    assert not names["is_ours"](WEBHOOK_SECRET, got.headers, got.body + b" ")
    assert {f"`backfill.{kind.value}`" for kind in Kind} <= set(re.findall(r"`backfill\.[a-z_]+`", page))


def test_the_id_is_that_of_the_alert_at_every_try_and_nothing_is_signed_without_a_secret(
    http: HttpReceiver,
) -> None:
    channel = WebhookChannel(SecretStr(http.url), None, None)
    channel.send(message())
    channel.send(message())
    first, second = http.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert "webhook-signature" not in first.headers
    assert first.json["data"]["link"] is None  # type: ignore[index]  # an object


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_answers_that_may_pass_are_worth_another_try(http: HttpReceiver, status: int) -> None:
    http.answers.append(status)
    with pytest.raises(TransientAlertError, match=f"^127.0.0.1 answers {status}$"):
        WebhookChannel(SecretStr(http.url), None, None).send(message())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_refusals_are_not(http: HttpReceiver, status: int) -> None:
    http.answers.append((status, {}, "no_service"))
    with pytest.raises(AlertError, match=rf"^127.0.0.1 answers {status} \(no_service\): check its address$"):
        SlackChannel(SecretStr(http.url), None).send(message())


def test_redirects_are_not_followed(http: HttpReceiver) -> None:
    http.answers.append((307, {"Location": f"http://127.0.0.1:{http.port}/else"}, ""))
    with pytest.raises(AlertError, match=r"redirects \(307\)"):
        WebhookChannel(SecretStr(http.url), None, None).send(message())
    assert len(http.received) == 1


@pytest.mark.parametrize("value", ["17", "Mon, 23 Nov 2099 00:39:24 GMT", "9" * 400])
def test_a_server_says_when_to_come_again(http: HttpReceiver, value: str) -> None:
    http.answers.append((429, {"Retry-After": value}, ""))
    with pytest.raises(RetryLaterError) as caught:
        WebhookChannel(SecretStr(http.url), None, None).send(message())
    assert caught.value.after_s == 17 or 1e9 <= caught.value.after_s < 1e11


@pytest.mark.parametrize(
    "rest", ["Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "Content-Length: 500\r\n\r\nhello"]
)
def test_the_status_says_whether_it_is_taken_however_the_rest_of_the_answer_reads(rest: str) -> None:
    """What is taken and not believed would be sent again."""
    with scripted_server(lambda line: "" if line.strip() else f"HTTP/1.1 200 OK\r\n{rest}") as port:
        WebhookChannel(SecretStr(f"http://127.0.0.1:{port}/"), None, None).send(message())
    with scripted_server(lambda line: "" if line.strip() else f"HTTP/1.1 404 no\r\n{rest}") as port:
        channel = WebhookChannel(SecretStr(f"http://127.0.0.1:{port}/"), None, None)
        with pytest.raises(AlertError, match="answers 404"):
            channel.send(message())


def test_a_server_that_says_a_letter_now_and_then_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_post, "ANSWER_DEADLINE_S", 0.4)
    monkeypatch.setattr(mail_module, "DEADLINE_S", 0.4)
    record = b"\x16\x03\x03\x40\x00"  # of TLS, with 16 KiB to come
    answer = b"HTTP/1.1 200 OK\r\nX: "
    with dripping_server(answer) as http, dripping_server(b"220-hi") as smtp, dripping_server(record) as tls:
        for channel in (
            WebhookChannel(SecretStr(f"http://127.0.0.1:{http}/"), None, None),
            WebhookChannel(SecretStr(f"https://127.0.0.1:{tls}/"), None, None),
            mail_channel(f"smtp://127.0.0.1:{smtp}"),
            mail_channel(f"smtps://127.0.0.1:{tls}"),
        ):
            with pytest.raises(TransientAlertError, match=r"does not (answer|take it) within"):
                channel.send(message())


def test_nobody_there_and_nobody_answering_may_pass(
    http: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TransientAlertError, match="cannot be reached"):
        WebhookChannel(SecretStr(f"http://127.0.0.1:{port}/zebra"), None, None).send(message())
    monkeypatch.setattr(http_post, "READ_TIMEOUT_S", 0.2)
    http.delay_s = 1.0
    with pytest.raises(TransientAlertError, match="does not answer"):
        WebhookChannel(SecretStr(http.url), None, None).send(message())


def test_a_certificate_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)
    with http_receiver(pem) as receiver:
        channel = WebhookChannel(SecretStr(receiver.url), None, None)
        with pytest.raises(
            AlertError, match=r"^127.0.0.1 shows a certificate that is not trusted: .* SSL_CERT_FILE$"
        ):
            channel.send(message())
        assert receiver.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        channel.send(message())
    assert len(receiver.received) == 1


def test_no_address_is_logged_or_told(http: HttpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    http.answers.extend(
        [
            200,
            (500, {}, f"no {http.url} and /hooks/T0K3N-zebra here"),
            (404, {}, http.url),
            (404, {}, r'{"error": "no hook \/hooks\/T0K3N-zebra"}'),
            307,
        ]
    )
    channel = SlackChannel(SecretStr(http.url), None)
    told = []
    with caplog.at_level(logging.DEBUG):
        channel.send(message())
        for _ in range(4):
            with pytest.raises((AlertError, TransientAlertError)) as caught:
                channel.send(message())
            told.append(str(caught.value))
    assert len(told) == 4
    assert "zebra" not in caplog.text + "".join(told) + repr(channel)


# --- Slack -----------------------------------------------------------------------------------------------------------


def test_slack_gets_blocks_and_a_text_for_notifications(http: HttpReceiver) -> None:
    SlackChannel(SecretStr(http.url), UI).send(message())
    body = http.received[0].json
    assert body["text"] == "[backfill] error: run 1a2b of mybank failed"
    shown = json.dumps(body["blocks"], ensure_ascii=False)
    for text in (
        "🔴 run 1a2b of mybank failed", "The file is not there.", "What to do: backfill resume my_bank",
        "rows\\n1,234,567", "2024-03-01 12:30:15 UTC", f"<{UI}/runs/1a2b|Open the UI>",
    ):  # fmt: skip
        assert text in shown


def test_slack_reads_no_markup_in_what_others_wrote_and_takes_every_length() -> None:
    facts = {f"fact {number}": HOSTILE * 40 for number in range(FACTS_MAX)}
    body = json.loads(
        slack_body(message(title=HOSTILE * 9, text=HOSTILE * 99, remedy=HOSTILE * 99, facts=facts), UI)
    )
    assert "<" not in body["text"]
    for block in body["blocks"]:
        texts = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
        for text in filter(None, texts):
            assert text["type"] == ("mrkdwn" if block["type"] == "context" else "plain_text")
            limit = {"header": 150, "section": 2_000 if "fields" in block else 3_000}.get(
                block["type"], 2_000
            )
            assert 0 < len(text["text"]) <= limit
        assert len(block.get("fields", [])) <= 10


# --- mail ------------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def mail_channel(url: str, *recipients: str) -> MailChannel:
    return MailChannel(
        SecretStr(url), "ledger@example.org", recipients or ("ann@example.org", "bob@example.org"), UI
    )


def test_mail_is_text_and_html_to_all_recipients() -> None:
    with smtp_receiver() as server:
        channel = mail_channel(f"smtp://127.0.0.1:{server.port}")
        assert channel.send(message()) == ""
        channel.send(message())
    first, second = server.mails
    assert server.envelopes[0] == ("ledger@example.org", ("ann@example.org", "bob@example.org"))
    assert first["Subject"] == "[backfill] error: run 1a2b of mybank failed"
    assert first["To"] == "ann@example.org, bob@example.org"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Message-ID"] == second["Message-ID"]
    text, html = first.get_body(("plain",)), first.get_body(("html",))
    assert text is not None
    assert text.get_content().replace("\r\n", "\n") == plain_text(message(), UI)
    assert html is not None
    read = _Tags()
    read.feed(html.get_content())
    for told in ("The file is not there.", "backfill resume my_bank", "1,234,567", "2024-03-01 12:30:15 UTC"):
        assert told in read.text
    assert "a" in read.tags


def test_mail_of_hostile_texts_has_no_more_headers_and_no_tags_of_theirs() -> None:
    with smtp_receiver() as server:
        made = message(title=HOSTILE, text=HOSTILE + "ü😀" * 50, facts={HOSTILE: HOSTILE}, remedy=HOSTILE)
        mail_channel(f"smtp://127.0.0.1:{server.port}").send(made)
    (mail,) = server.mails
    assert mail["Bcc"] is None
    assert server.envelopes[0][1] == ("ann@example.org", "bob@example.org")
    html = mail.get_body(("html",))
    assert html is not None
    read = _Tags()
    read.feed(html.get_content())
    assert not {"script", "b"} & set(read.tags)
    assert "<script>" in read.text


@pytest.mark.parametrize("tls_first", [False, True])
def test_a_password_goes_encrypted_to_a_server_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls_first: bool
) -> None:
    pem = certificate(tmp_path)
    with smtp_receiver(
        certificate=pem, tls_first=tls_first, credentials=("user@x", "p@ss:w0rd/zebra")
    ) as server:
        scheme = "smtps" if tls_first else "smtp"
        channel = mail_channel(f"{scheme}://user%40x:p%40ss%3Aw0rd%2Fzebra@127.0.0.1:{server.port}")
        with pytest.raises(AlertError, match="certificate that is not trusted"):
            channel.send(message())
        assert server.mails == []
        assert "AUTH" not in " ".join(server.said)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        channel.send(message())
    assert server.encrypted == [True]


def test_a_wrong_password_is_a_refusal_that_does_not_repeat_it() -> None:
    with smtp_receiver(credentials=("user", "right")) as server:
        channel = mail_channel(f"smtp://some%2Fbody:zebra@127.0.0.1:{server.port}")
        with pytest.raises(AlertError, match="127.0.0.1 answers 535 5.7.8 no … with …") as caught:
            channel.send(message())
    assert "zebra" not in str(caught.value) + repr(channel)
    assert "some/body" not in str(caught.value)


def test_no_password_is_sent_to_another_machine_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backfill_pipeline.reporting.alerts.mail._LOOPBACK", ())
    refused = pytest.raises(AlertError, match="offers no TLS, so no password is sent")
    with smtp_receiver(credentials=("user", "right")) as server, refused:
        mail_channel(f"smtp://user:right@127.0.0.1:{server.port}").send(message())
    assert "AUTH" not in " ".join(server.said)


def test_who_refuses_for_now_may_take_it_later_and_who_refuses_for_good_does_not() -> None:
    later = pytest.raises(TransientAlertError, match="answers 451 try later")
    with smtp_receiver(answer="451 try later") as server, later:
        mail_channel(f"smtp://127.0.0.1:{server.port}").send(message())
    never = pytest.raises(AlertError, match="answers 554 spam")
    with smtp_receiver(answer="554 spam") as server, never:
        mail_channel(f"smtp://127.0.0.1:{server.port}").send(message())
    with pytest.raises(TransientAlertError, match="cannot be reached"):
        mail_channel(f"smtp://127.0.0.1:{server.port}").send(message())


def test_a_mail_that_is_taken_is_sent_however_the_server_takes_its_leave() -> None:
    with smtp_receiver(leave="421 too busy") as server:
        mail_channel(f"smtp://127.0.0.1:{server.port}").send(message())
    assert len(server.mails) == 1


def test_a_password_that_no_mail_server_can_be_given_is_said_without_it() -> None:
    refused = pytest.raises(AlertError, match="have letters beyond ASCII$")
    with smtp_receiver(credentials=("ann", "secret")) as server, refused as caught:
        mail_channel(f"smtp://ann:z%C3%A9bra@127.0.0.1:{server.port}").send(message())
    assert "bra" not in str(caught.value)
    assert server.mails == []


def test_a_recipient_that_is_refused_is_told_and_keeps_it_from_no_other() -> None:
    with smtp_receiver(refused=("bob@example.org",)) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        assert mail_channel(url).send(message()) == "the mail server 127.0.0.1 refuses bob@example.org"
        assert server.envelopes == [("ledger@example.org", ("ann@example.org",))]
        with pytest.raises(AlertError, match="refuses bob@example.org: 550 nobody here"):
            mail_channel(url, "bob@example.org").send(message())


# --- what the environment says ---------------------------------------------------------------------------------------


def test_nothing_set_is_no_channel_and_what_is_set_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert channels(load_alert_settings()) == []
    monkeypatch.setenv("BACKFILL_ALERT_WEBHOOK_URL", "https://example.org/x")
    assert [one.name for one in channels(load_alert_settings())] == ["webhook"]
    monkeypatch.setenv("BACKFILL_ALERT_SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T/B/x")
    monkeypatch.setenv("BACKFILL_ALERT_EMAIL_TO", "ann@example.org, bob@example.org")
    monkeypatch.setenv("BACKFILL_ALERT_EMAIL_FROM", "ledger@example.org")
    monkeypatch.setenv("BACKFILL_ALERT_SMTP_URL", "smtps://mail.example.org")
    assert [one.name for one in channels(load_alert_settings())] == ["webhook", "slack", "email"]
    assert load_alert_settings().email_to == ("ann@example.org", "bob@example.org")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEBHOOK_URL", "zebra"), ("WEBHOOK_URL", "ftp://zebra/x"), ("WEBHOOK_URL", "https://ze bra/x"),
        ("WEBHOOK_URL", "https://x:zebra/"), ("WEBHOOK_URL", "https:///zebra"),
        ("SLACK_WEBHOOK_URL", "http://hooks.slack.com/zebra"),
        ("WEBHOOK_SECRET", "zebra"), ("WEBHOOK_SECRET", "whsec_zebra"), ("WEBHOOK_SECRET", "whsec_emVicmE="),
        ("SMTP_URL", "zebra.example.org:25"), ("SMTP_URL", "https://zebra"), ("SMTP_URL", "smtp://u:zebra@h:port"),
        ("EMAIL_TO", "zebra"), ("EMAIL_TO", "ann@example.org,zebra"), ("EMAIL_TO", "a@b\nBcc: zebra@x"),
        ("EMAIL_FROM", "Zebra <zebra@x>"), ("UI_URL", "zebra"), ("REJECT_RATE_MAX", "1.5"), ("REJECT_RATE_MAX", "NaN"),
        ("REJECTS_MAX", "-1"), ("STALLED_AFTER_S", "5"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"BACKFILL_ALERT_{variable}", value)
    with pytest.raises(
        SettingsError, match=rf"^The environment variable BACKFILL_ALERT_{variable} .*\.$"
    ) as caught:
        load_alert_settings()
    assert "zebra" not in str(caught.value).lower()


def test_half_of_what_mail_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_ALERT_EMAIL_TO", "ann@example.org")
    with pytest.raises(SettingsError, match="BACKFILL_ALERT_EMAIL_FROM is not set"):
        load_alert_settings()
    monkeypatch.setenv("BACKFILL_ALERT_EMAIL_FROM", "ledger@example.org")
    with pytest.raises(SettingsError, match="BACKFILL_ALERT_SMTP_URL is not set"):
        load_alert_settings()


def test_a_secret_without_a_webhook_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_ALERT_WEBHOOK_SECRET", WEBHOOK_SECRET)
    with pytest.raises(SettingsError, match="BACKFILL_ALERT_WEBHOOK_URL is not set"):
        load_alert_settings()

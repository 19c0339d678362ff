"""Evidence packs: complete, the same for the same ledger, and not to be changed without a trace."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import audit_log, registrations
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.evidence_tables import TABLES
from backfill_pipeline.stages.evidence.check import Checked, check_pack
from backfill_pipeline.stages.evidence.format import SIGNATURE
from backfill_pipeline.stages.evidence.keys import KEY_VARIABLE, make_key, read_private_key, read_public_key
from backfill_pipeline.stages.evidence.pack import Pack, prove_and_write, write_pack
from backfill_pipeline.stages.verify import VerificationReport
from backfill_pipeline_tests.stages.world import World, entries, entry


@dataclass
class Auditor:
    """A source that ran, and packs of it."""

    world: World
    source: Path
    connection: Connection

    def pack(self, name: str = "pack", *, key: Path | None = None, recorded: bool = False) -> Pack:
        return prove_and_write(
            self.connection,
            load_definition(self.source),
            self.world.places,
            lambda _: load_definition(self.source),
            self.world.folder / name,
            key=None if key is None else read_private_key(key),
            recorded=recorded,
            actor="anna",
            reason="year end",
        )

    def check(self, name: str = "pack", public: Path | None = None) -> Checked:
        return check_pack(self.world.folder / name, None if public is None else read_public_key(public))


@pytest.fixture
def auditor(world: World) -> Iterator[Auditor]:
    rows = [
        *entries(30),
        entry(31, amount="=1+1", note="@SUM(A1)"),
        entry(32, amount="nothing"),
        entry(1),
        entry(2, amount="99.00"),
    ]
    source = world.write("bank", rows, accounts={"A": "500.00", "B": "0", "C": "0"}, max_error_rate="1")
    world.post(source)
    with connect(world.url) as connection:
        audit_log.write(
            connection, actor="=cmd|'/c calc'!A1", action="looked_at", subject="bank", reason='quotes " and \n lines',
            before={"ü": "1.50", "z": None, "a": [1, 2.50]},
        )  # fmt: skip
        audit_log.write(connection, actor="bob", action="looked_at", subject="bank", reason="")
        yield Auditor(world, source, connection)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("keys")

    def key(name: str) -> Path:
        if not (folder / name).exists():
            make_key(folder / name)
        return folder / name

    return key


def rows(pack: Pack, name: str) -> list[dict[str, str]]:
    with (pack.path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(pack: Pack) -> dict[str, object]:
    value = json.loads((pack.path / "summary.json").read_text())
    assert isinstance(value, dict)
    return value


class TestAPack:
    def test_shows_what_happened(self, auditor: Auditor) -> None:
        pack = auditor.pack()
        assert (pack.findings, pack.broken, pack.signed_by) == ((), False, None)
        shown = summary(pack)
        assert shown["counts"] == {
            "read": 34, "posted": 30, "duplicates": 1, "conflicts": 1, "rejected": 2, "filtered": 0,
        }  # fmt: skip
        assert shown["rejects_by_code"] == {"amount_malformed": 2, "conflict": 1}
        assert shown["totals"] == [
            {
                "ledger_id": "MASTER",
                "currency_code": "USD",
                "kind": "entries",
                "entries": 30,
                "amount": "495.00",
            },
            {
                "ledger_id": "MASTER",
                "currency_code": "USD",
                "kind": "opening",
                "entries": 1,
                "amount": "500.00",
            },
        ]
        assert (
            shown["source"]["sha256"]
            == hashlib.sha256((auditor.source.parent / "bank.csv").read_bytes()).hexdigest()
        )
        assert shown["reconciliation"]["verdict"] == "match"
        assert shown["seals"] == {"batches": 4, "sealed": 4, "final": 0, "rolled_back": 0}
        assert {file.name for file in pack.path.iterdir()} == {
            *(f"{name}.csv" for name in TABLES), "summary.json", "index.html", "manifest.json", "definition.yaml",
        }  # fmt: skip
        assert (pack.path / "definition.yaml").read_bytes() == auditor.source.read_bytes()
        assert [row["status"] for row in rows(pack, "partitions")] == ["posted"] * 4
        (account,) = [row for row in rows(pack, "accounts") if row["account_id"] == "A"]
        assert (account["entries"], account["debits"], account["credits"]) == ("31", "995.00", "0")
        assert auditor.check() == Checked("bank", pack.manifest_sha256, 20, (), (), None)

    def test_is_the_same_for_the_same_ledger(self, auditor: Auditor, keys: Callable[[str], Path]) -> None:
        definition = load_definition(auditor.source)
        registration = registrations.load(auditor.connection, "bank")
        assert registration is not None
        auditor.world.reconcile(auditor.source)
        packs = [
            write_pack(
                auditor.connection, definition, registration, auditor.world.folder / name,
                key=read_private_key(keys("k")), verification=VerificationReport(),
            )
            for name in ("one", "two")
        ]  # fmt: skip
        one, two = ({file.name: file.read_bytes() for file in pack.path.iterdir()} for pack in packs)
        assert one == two

    def test_is_checked_without_a_trace_in_the_process(self, auditor: Auditor) -> None:
        usual = csv.field_size_limit()
        auditor.pack()
        auditor.check()
        assert csv.field_size_limit() == usual

    def test_is_in_the_audit_log(self, auditor: Auditor) -> None:
        pack = auditor.pack()
        (logged,) = audit_log.entries(auditor.connection, subject="bank", limit=1)
        assert (logged.action, logged.actor, logged.reason) == ("evidence_packed", "anna", "year end")
        assert logged.after == {"manifest_sha256": pack.manifest_sha256, "signed_by": None, "findings": []}

    def test_runs_no_formula_and_gives_every_text_back(self, auditor: Auditor) -> None:
        pack = auditor.pack()
        assert [row["actor"] for row in rows(pack, "audit_log")] == ["'=cmd|'/c calc'!A1", "bob"]
        for name in TABLES:
            for row in rows(pack, name):
                assert not [value for value in row.values() if re.match("[=+@\t\r]", value)]
        assert auditor.check().faults == ()  # the chain is computed from the texts as they were

    def test_has_a_page_that_loads_nothing(self, auditor: Auditor) -> None:
        page = (auditor.pack().path / "index.html").read_text()
        assert "read 34 = posted 30 + duplicates 1 + conflicts 1 + rejected 2 + filtered 0" in page
        assert "complete and proven" in page
        assert not re.search(r"<script|<link|<img|src=|https?://|@import|url\(", page)

    def test_holds_no_secret(self, auditor: Auditor, keys: Callable[[str], Path]) -> None:
        pack = auditor.pack(key=keys("k"))
        content = b"".join(file.read_bytes() for file in pack.path.iterdir())
        assert b"PRIVATE" not in content
        assert auditor.world.url.encode() not in content
        assert str(auditor.world.folder).encode() not in content

    def test_is_whole_or_not_there(self, auditor: Auditor) -> None:
        definition, registration = (
            load_definition(auditor.source),
            registrations.load(auditor.connection, "bank"),
        )
        assert registration is not None

        def fails(_: Pack) -> None:
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError):
            write_pack(
                auditor.connection, definition, registration, auditor.world.folder / "pack", record=fails
            )
        assert [file.name for file in auditor.world.folder.iterdir() if "pack" in file.name] == []

    def test_goes_into_no_folder_that_holds_something(self, auditor: Auditor) -> None:
        (auditor.world.folder / "pack").mkdir()
        auditor.pack()
        with pytest.raises(
            UsageError, match="is there already and not an empty folder: name a new one with --out"
        ):
            auditor.pack()


class TestWhatDoesNotHold:
    def test_a_changed_entry_is_said(self, auditor: Auditor) -> None:
        auditor.world.tamper(
            "UPDATE ledger_entries SET transaction_type = 'X' WHERE reference_id = 'R000007'"
        )
        pack = auditor.pack()
        assert (pack.broken, pack.findings) == (True, ("the reconciliation found 1 break",))
        assert auditor.check().findings == pack.findings
        assert "does not hold" in (pack.path / "index.html").read_text()

    def test_a_changed_entry_that_was_sealed_is_named(self, auditor: Auditor) -> None:
        auditor.world.reconcile(auditor.source)
        auditor.world.tamper(
            "UPDATE ledger_entries SET transaction_type = 'X' WHERE reference_id = 'R000007'"
        )
        pack = auditor.pack(recorded=True)
        assert (pack.broken, pack.findings) == (
            True,
            ("batch 2 of bank, partition 0001 is not as it was sealed",),
        )

    def test_a_changed_balance_is_said(self, auditor: Auditor) -> None:
        auditor.world.tamper("UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'A'")
        pack = auditor.pack()
        assert pack.broken
        assert "debits and credits of the ledger differ in USD" in pack.findings

    def test_a_touched_audit_log_is_said(self, auditor: Auditor) -> None:
        auditor.world.tamper("UPDATE audit_log SET actor = 'eve' WHERE number = 1")
        pack = auditor.pack()
        assert (pack.broken, pack.findings) == (True, ("the audit log was touched: 1 fault",))
        assert auditor.check().faults == ()

    def test_what_is_not_done_yet_is_no_break(self, world: World, connection: Connection) -> None:
        source = world.write("bank", entries(25))
        world.post(source, keys=["0001"])
        pack = Auditor(world, source, connection).pack()
        assert (pack.broken, pack.findings) == (False, ("2 of 3 partitions not posted",))

    def test_a_recorded_reconciliation_must_be_newer_than_the_ledger(self, auditor: Auditor) -> None:
        pack = auditor.pack("never", recorded=True)
        assert pack.findings == ("never reconciled", "4 of 4 batches not sealed")
        auditor.world.reconcile(auditor.source)
        assert auditor.pack("now", recorded=True).findings == ()
        auditor.world.query(
            "UPDATE backfill_batches SET posted_at = now() + interval '1 second' WHERE id = 2"
        )
        assert auditor.pack("later", recorded=True).findings == (
            "not reconciled since something of it was posted or rolled back",
        )

    @pytest.mark.parametrize("mode", ["delete", "reverse"])
    def test_what_was_rolled_back_is_told_with_its_plan(self, auditor: Auditor, mode: str) -> None:
        auditor.world.reconcile(auditor.source)
        plan = auditor.world.value("SELECT rollback_plan('bank', '0002', NULL, %s)", mode)
        assert isinstance(plan, dict)
        auditor.world.query(
            "SELECT rollback_apply('bank', '0002', NULL, %s, NULL, %s, 'anna', 'wrong export')",
            mode,
            plan["plan_hash"],
        )
        pack = auditor.pack()
        assert (pack.broken, pack.findings) == (False, ("1 of 4 partitions not posted",))
        (rollback,) = rows(pack, "rollbacks")
        assert (rollback["mode"], rollback["plan_hash"], rollback["actor"]) == (
            mode,
            plan["plan_hash"],
            "anna",
        )
        kinds = {row["kind"]: row["entries"] for row in rows(pack, "totals")}
        reversed_too = {"entries, reversed": "10", "reversal": "10"} if mode == "reverse" else {}
        assert kinds == {"entries": "20", "opening": "1", **reversed_too}
        assert auditor.check().faults == ()

    def test_a_definition_that_changed_is_not_passed_off_as_the_one_used(self, auditor: Auditor) -> None:
        auditor.world.reconcile(auditor.source)
        auditor.source.write_text(auditor.source.read_text().replace("TRANSFER", "PAYMENT"))
        pack = auditor.pack(recorded=True)
        assert not (pack.path / "definition.yaml").exists()
        assert (
            "The definition was changed since, and is not in this pack."
            in (pack.path / "index.html").read_text()
        )


class TestChecking:
    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (lambda pack: (pack / "rejects.csv").write_text(""), "rejects.csv was changed"),
            (lambda pack: (pack / "index.html").write_text("all is well"), "index.html was changed"),
            (lambda pack: (pack / "seals.csv").unlink(), "seals.csv is missing"),
            (lambda pack: (pack / "more.csv").write_text("x"), "more.csv does not belong to the pack"),
        ],
    )  # fmt: skip
    def test_a_touched_file_is_named(
        self, auditor: Auditor, change: Callable[[Path], object], fault: str
    ) -> None:
        change(auditor.pack().path)
        assert auditor.check().faults == (fault,)

    @pytest.mark.parametrize(
        ("file", "old", "new", "fault"),
        [
            ("audit_log.csv", "bob", "eve", "audit_log.csv: row 2 does not fit the chain"),
            ("audit_log.csv", "quotes", "Quotes", "audit_log.csv: row 1 does not fit the chain"),
            ("seals.csv", "MASTER,2,batch", "MASTER,2,period", "seals.csv: seal 2 of MASTER does not fit the chain"),
            ("summary.json", '"posted": 30', '"posted": 31', "summary.json: the counts do not add up, and it does not say so"),
        ],
    )  # fmt: skip
    def test_a_forged_manifest_does_not_help(
        self, auditor: Auditor, file: str, old: str, new: str, fault: str
    ) -> None:
        pack = auditor.pack().path
        content = (pack / file).read_text()
        assert old in content
        (pack / file).write_text(content.replace(old, new, 1))
        forge(pack, file)
        assert auditor.check().faults == (fault,)

    @pytest.mark.parametrize("file", ["audit_log.csv", "seals.csv"])
    def test_nor_does_cutting_off_the_end_of_a_chain(self, auditor: Auditor, file: str) -> None:
        pack = auditor.pack().path
        lines = (pack / file).read_bytes().splitlines(keepends=True)
        (pack / file).write_bytes(b"".join(lines[:-1]))
        forge(pack, file)
        (fault,) = auditor.check().faults
        assert fault.startswith(f"{file} does not end where")

    def test_nothing_but_plain_files_is_read(self, auditor: Auditor, tmp_path: Path) -> None:
        """A link shows what lies elsewhere; a pipe would be waited for, /dev/zero read for ever."""
        pack = auditor.pack().path
        kept = (pack / "rejects.csv").rename(tmp_path / "rejects.csv")
        whole = (pack / "manifest.json").read_bytes()
        for put in (
            lambda path: path.symlink_to(kept),
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(tmp_path / "nothing"),
            Path.mkdir,
            os.mkfifo,
        ):
            put(pack / "rejects.csv")
            assert auditor.check().faults == (
                "rejects.csv is no plain file: a pack holds no links, folders or pipes",
            )
            (pack / "rejects.csv").rmdir() if put is Path.mkdir else (pack / "rejects.csv").unlink()
        shutil.copy(kept, pack / "rejects.csv")
        for put in (os.mkfifo, Path.mkdir):
            put(pack / SIGNATURE)
            assert auditor.check().faults == (f"{SIGNATURE} holds no signature",)
            (pack / SIGNATURE).rmdir() if put is Path.mkdir else (pack / SIGNATURE).unlink()
        (pack / "manifest.json").unlink()
        os.mkfifo(pack / "manifest.json")
        with pytest.raises(UsageError, match=r"its manifest.json is no plain file"):
            auditor.check()
        (pack / "manifest.json").unlink()
        (pack / "manifest.json").write_bytes(whole)
        assert auditor.check().faults == ()

    def test_a_manifest_that_names_too_little_or_files_elsewhere(self, auditor: Auditor) -> None:
        pack = auditor.pack().path
        manifest = json.loads((pack / "manifest.json").read_text())
        manifest["files"]["../bank.csv"] = manifest["files"].pop("rejects.csv")
        (pack / "manifest.json").write_text(json.dumps(manifest))
        (pack / "rejects.csv").unlink()
        assert auditor.check().faults == ("rejects.csv is not in the manifest", "../bank.csv is missing")

    @pytest.mark.parametrize("cut", [b"1,", b"1,2" + b",x" * 40])
    def test_a_row_of_another_shape_is_no_row(self, auditor: Auditor, cut: bytes) -> None:
        pack = auditor.pack().path
        header = (pack / "audit_log.csv").read_bytes().splitlines(keepends=True)[0]
        (pack / "audit_log.csv").write_bytes(header + cut + b"\n")
        forge(pack, "audit_log.csv")
        assert auditor.check().faults == ("the files are those of the manifest, but not what a pack holds",)

    def test_hostile_texts_of_the_log_come_through_whole(self, auditor: Auditor) -> None:
        for text in (
            "''=1+1", "'", "\\.", "\\N", '","', "a\r\nb\rc\n", "\x01\x08\x0c\x1f\x7f", "\u202eevil", "\u2028\ufeff",
            "<script>alert(1)</script>", "=HYPERLINK(1)", "\t=1", "-1", "%s {} \\u0000", "x" * 200_000,
        ):  # fmt: skip
            audit_log.write(
                auditor.connection,
                actor=text,
                action="looked_at",
                subject=text,
                reason=text,
                before={text[:99]: text},
            )
        pack = auditor.pack()
        assert auditor.check().faults == ()
        assert "<script>alert" not in (pack.path / "index.html").read_text()

    def test_a_folder_that_holds_no_pack(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"holds no evidence pack: it has no manifest.json"):
            check_pack(tmp_path)
        (tmp_path / "manifest.json").write_text("[]")
        with pytest.raises(UsageError, match=r"holds no evidence pack: its manifest.json is not one"):
            check_pack(tmp_path)
        (tmp_path / "manifest.json").write_text('{"format": "other/9", "source_id": "x", "files": {}}')
        with pytest.raises(UsageError, match="is a pack of another format"):
            check_pack(tmp_path)


class TestSignatures:
    def test_say_who_made_the_pack(self, auditor: Auditor, keys: Callable[[str], Path]) -> None:
        pack = auditor.pack(key=keys("mine"))
        mine, other = (keys(name).with_name(f"{name}.pub") for name in ("mine", "other") if keys(name))
        assert auditor.check(public=mine).signed_by == pack.signed_by is not None
        assert auditor.check().signed_by == pack.signed_by
        assert auditor.check(public=other).faults == (
            "the pack was signed with another key than the given one",
        )

    def test_do_not_fit_another_manifest(self, auditor: Auditor, keys: Callable[[str], Path]) -> None:
        pack = auditor.pack(key=keys("mine")).path
        (pack / "rejects.csv").write_text("")
        forge(pack, "rejects.csv")
        assert auditor.check(public=keys("mine").with_name("mine.pub")).faults == (
            "the signature does not fit manifest.json",
        )

    def test_are_missed_where_they_are_asked_for(self, auditor: Auditor, keys: Callable[[str], Path]) -> None:
        auditor.pack()
        public = keys("mine").with_name("mine.pub")
        assert auditor.check(public=public).faults == ("the pack is not signed",)
        (auditor.world.folder / "pack" / "signature.json").write_text("{}")
        assert auditor.check(public=public).faults == ("signature.json holds no signature",)


class TestKeys:
    def test_are_for_their_owner_and_never_overwritten(self, tmp_path: Path) -> None:
        make_key(tmp_path / "k")
        assert ((tmp_path / "k").stat().st_mode & 0o777, b"PRIVATE" in (tmp_path / "k").read_bytes()) == (
            0o600,
            True,
        )
        assert b"PRIVATE" not in (tmp_path / "k.pub").read_bytes()
        before = (tmp_path / "k").read_bytes()
        for left in ("k", "k.pub"):
            with pytest.raises(
                UsageError, match="is there already: name another file, a key is never overwritten"
            ):
                make_key(tmp_path / "k")
            (tmp_path / "k.pub").unlink(missing_ok=True)
            assert left
        assert (tmp_path / "k").read_bytes() == before

    def test_are_encrypted_with_a_passphrase(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KEY_VARIABLE, "correct horse")
        make_key(tmp_path / "k")
        assert b"ENCRYPTED" in (tmp_path / "k").read_bytes()
        read_private_key(tmp_path / "k")
        monkeypatch.setenv(KEY_VARIABLE, "battery staple")
        with pytest.raises(UsageError, match=f"or {KEY_VARIABLE} is not its passphrase") as wrong:
            read_private_key(tmp_path / "k")
        assert "staple" not in str(wrong.value)
        monkeypatch.delenv(KEY_VARIABLE)
        with pytest.raises(UsageError, match=f"is encrypted: set {KEY_VARIABLE} to its passphrase"):
            read_private_key(tmp_path / "k")

    def test_that_are_none_are_told(self, tmp_path: Path) -> None:
        make_key(tmp_path / "k")
        for path, words in (
            (tmp_path / "k.pub", "is no private key"),
            (tmp_path / "none", "cannot read the key"),
        ):
            with pytest.raises(UsageError, match=words):
                read_private_key(path)
        with pytest.raises(UsageError, match="is no Ed25519 public key"):
            read_public_key(tmp_path / "k")


def forge(pack: Path, file: str) -> None:
    """Makes the manifest fit a file that was changed, as whoever changes files on purpose does."""
    manifest = json.loads((pack / "manifest.json").read_text())
    manifest["files"][file]["sha256"] = hashlib.sha256((pack / file).read_bytes()).hexdigest()
    (pack / "manifest.json").write_text(json.dumps(manifest))

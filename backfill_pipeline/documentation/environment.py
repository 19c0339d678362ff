"""The page of settings: environment variables, and the settings of a run.

Belongs here: what the settings' own classes say of each.
Does not: how settings are chosen well (`docs/tuning.md`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.documentation.markdown import code, page, plain, table
from backfill_pipeline.settings import AlertSettings, Settings
from backfill_pipeline.stages.config import BackfillConfig, effective_config

_INTRODUCTION = """\
A variable that is empty counts as unset. One that cannot be used is refused by name, and its value is not shown:
secrets come from the environment only, and reach no log, no metadata and no message.

Unset, `BACKFILL_HOME` is `~/.local/share/ledger-backfill/<checkout>-<hash>`, and for root
`/var/lib/ledger-backfill/<checkout>-<hash>`; [what it holds](../backups.md).

## The ledger and its places"""

_ALERTS = """\
## Alerts

Unset, nothing is sent. [Alerts](../alerts.md) says what is sent, and when."""

_OTHERS = """\
## Others

Variables that a source file names itself (`${NAME}`, `url_env`, `token_env` and the like) are that file's; see
[source definitions](../source-definition.md#paths)."""

# What is read at one place only, and is no setting of the whole.
OTHERS = {
    "BACKFILL_ACTOR": "who decides, for the audit log and for four eyes; `--by` wins. Unset: user and host",
    "BACKFILL_EVIDENCE_PASSPHRASE": "encrypts the key that signs [evidence](../evidence.md)",
    "BACKFILL_DAGSTER_DIR": "Dagster's files; set by `backfill` itself, and only for "
    "[Dagster by hand](../dagster-ui.md#dagster-by-hand)",
    "DAGSTER_HOME": "where `dagster.yaml` lies; likewise",
    "SCB_SIMULATOR_TOKEN": "the token that the [simulated bank](../scb-simulator.md) takes",
    "SCB_SIMULATOR_CLIENT_ID": "the client that it gives tokens to",
    "SCB_SIMULATOR_CLIENT_SECRET": "that client's secret",
    "SCB_SIMULATOR_ADMIN_TOKEN": "the token for switching its faults",
    "TMPDIR": "where plans, archives that are unpacked and other passing files go; unset, `/var/tmp`",
    "AMLSIM_DIR": "where the files of the source `amlsim` are; see `data/sources/amlsim.yaml`",
}
"""Name → meaning in Markdown, with links from `docs/reference/`."""

_RUNS = """\
## Settings of a run

In a source file under `config`, or in the Launchpad, which wins. [Tuning](../tuning.md#settings-of-a-run) says when
another value is better."""


_IN_CHECKOUT = {"BACKFILL_SOURCES_DIR": "data/sources", "BACKFILL_INBOX_DIR": "data/inbox"}


def settings_page() -> str:
    """`docs/reference/settings.md`."""
    header = ("variable", "default", "")
    return page(
        "Settings",
        _INTRODUCTION,
        table(header, _variables(Settings)),
        _ALERTS,
        table(header, _variables(AlertSettings)),
        _OTHERS,
        table(("variable", ""), [(code(name), text) for name, text in OTHERS.items()]),
        _RUNS,
        table(("setting", "default", "with `online`", ""), _run_settings()),
    )


def variables() -> frozenset[str]:
    """Every variable that the page names."""
    fields = (*Settings.model_fields.values(), *AlertSettings.model_fields.values())
    return frozenset(str(one.validation_alias) for one in fields) | OTHERS.keys()


def _variables(settings: type[BaseSettings]) -> Iterator[tuple[str, str, str]]:
    said = _attributes(settings)
    for name, field in settings.model_fields.items():
        text = said[name].replace("None means", "unset:")
        for other, named in settings.model_fields.items():
            text = text.replace(f"`{other}`", f"`{named.validation_alias}`")
        yield code(field.validation_alias), _default(field), plain(text)


def _run_settings() -> Iterator[tuple[str, str, str, str]]:
    usual, online = effective_config(RunConfig()), effective_config(RunConfig(online=True))
    for name, text in _attributes(BackfillConfig).items():
        shown = [_value(getattr(one, name)) for one in (usual, online)]
        # The one setting whose unit is not in the name that people write.
        key, unit = ("retry_delay", "milliseconds: ") if name == "retry_delay_ms" else (name, "")
        yield code(key), shown[0], shown[1] if shown[1] != shown[0] else "", plain(unit + text)
    yield code("online"), "as the source says", "", "true: live postings go on meanwhile"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}"


def _default(field: FieldInfo) -> str:
    """What is taken where nothing is set; places depend on the machine, and are said in words."""
    if field.default_factory is not None:
        place = _IN_CHECKOUT.get(str(field.validation_alias))
        return "" if place is None else f"{code(place)} of the checkout"
    if field.default is PydanticUndefined or field.default in (None, ()):
        return ""
    return code(field.default)


def _attributes(of: type) -> dict[str, str]:
    """What the class's docstring says of each attribute: Google style, name: text, continued by deeper lines."""
    section = inspect.getdoc(of) or ""
    section = section.partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}

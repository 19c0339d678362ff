"""The page of what there is in the Dagster UI, from the definitions that it loads.

Belongs here: assets, checks, jobs with their config, schedules and sensors, for a source and a bank of any name.
Does not: how they are used (`docs/dagster-ui.md`), the definitions themselves (`build.py`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.documentation.markdown import code, page, plain, table

if TYPE_CHECKING:
    from dagster import AssetKey, Definitions, Field, JobDefinition

_SOURCE, _BANK = "source_id", "bank_id"
"""Names that stand for any source's and any bank's; they are written in capitals on the page."""

_DEFINITIONS = {
    _SOURCE: "type: csv\nfile: entries.csv\nfreshness: {at_most_hours: 26}\n",
    _BANK: "type: scb\n"
    "scb: {base_url: https://scb.example.org, bank_id: SCB, timezone: UTC, start: 2024-03-01,"
    " auth: {kind: bearer, token_env: SCB_TOKEN}, nightly: {enabled: true}}\n",
}
_FIELDS = """\
fields:
  ledger_id: {constant: MASTER}
  debit_account_id: debit
  credit_account_id: credit
  amount: amount
  currency_code: {constant: EUR}
  transaction_type: {constant: TRANSFER}
  reference_id: reference
  timestamp_utc: {column: time}
"""

_INTRODUCTION = """\
What the UI shows, with the descriptions that it shows. `SOURCE_ID` stands for each source, `BANK_ID` for each ledger
that a central bank keeps too. [The Dagster UI](../dagster-ui.md) says how they are worked with."""

_JOBS = """\
Launch them under *Jobs*, with the config of the table in the *Launchpad*. What cannot be meant is refused with a
sentence."""


def dagster_page() -> str:
    """`docs/reference/dagster.md`."""
    definitions = _definitions()
    keys = definitions.resolve_asset_graph().toposorted_asset_keys
    parts = []
    for title, prefix in (("a source", _SOURCE), ("a bank", _BANK), ("the ledger", "")):
        chosen = [key for key in keys if _belongs(key) == prefix]
        parts += [f"## Assets of {title}", table(("asset", "kinds", ""), _assets(definitions, chosen))]
        parts += [f"## Checks of {title}", table(("check", "of", "blocks", ""), _checks(definitions, chosen))]
    schedules, sensors = definitions.schedules or (), definitions.sensors or ()
    return page(
        "What the Dagster UI shows",
        _INTRODUCTION,
        *parts,
        "## Jobs",
        _JOBS,
        *(part for job in _named(definitions.resolve_all_job_defs()) for part in _job(job)),
        "## Schedules and sensors",
        table(("name", "kind", ""), [*_ticking("schedule", schedules), *_ticking("sensor", sensors)]),
    )


def _definitions() -> Definitions:
    with tempfile.TemporaryDirectory() as scratch:
        sources = {}
        for name, text in _DEFINITIONS.items():
            file = Path(scratch) / f"{name}.yaml"
            file.write_text(f"id: {name}\n{text}{_FIELDS}", encoding="utf-8")
            sources[name] = load_definition(file)
        return build_defs(sources)


def _belongs(key: AssetKey) -> str:
    """Whose asset it is: the source's, the bank's, or nobody's alone."""
    text = key.to_user_string()
    return next((name for name in _DEFINITIONS if name in text), "")


def _assets(definitions: Definitions, keys: Iterable[AssetKey]) -> Iterator[tuple[str, str, str]]:
    graph = definitions.resolve_asset_graph()
    for key in keys:
        node = graph.get(key)
        yield (
            code(_any(key.to_user_string())),
            ", ".join(sorted(node.kinds)),
            _any(plain(node.description or "")),
        )


def _checks(definitions: Definitions, keys: Iterable[AssetKey]) -> Iterator[tuple[str, str, str, str]]:
    graph = definitions.resolve_asset_graph()
    for key in keys:
        of_key = (one for one in graph.asset_check_keys if one.asset_key == key)
        for check in sorted(of_key, key=lambda one: one.name):
            node = graph.get(check)
            blocks = "yes" if node.blocking else ""
            asset = code(_any(key.to_user_string()))
            yield code(_any(check.name)), asset, blocks, _any(plain(node.description or ""))


def _named(jobs: Iterable[JobDefinition]) -> list[JobDefinition]:
    """Jobs that people see: Dagster's own, for assets without a job, has a name that begins with an underscore."""
    return sorted((job for job in jobs if not job.name.startswith("_")), key=lambda job: job.name)


def _job(job: JobDefinition) -> Iterator[str]:
    yield f"### {_any(job.name)}"
    yield _any(plain(job.description or ""))
    if len(nodes := job.graph.node_defs) != 1:
        return  # stages of a source: their config is that of a run
    schema = nodes[0].config_schema
    fields: dict[str, Field] = getattr(schema.config_type, "fields", None) or {} if schema else {}
    rows = [
        (code(name), _default(one), _any(plain(one.description or "")))
        for name, one in sorted(fields.items(), key=lambda item: (not item[1].is_required, item[0]))
    ]
    yield table(("config", "default", ""), rows)


def _default(one: Field) -> str:
    if one.is_required:
        return "required"
    if not one.default_provided or one.default_value in (None, "", [], {}):
        return ""
    value = one.default_value
    return code(str(value).lower() if isinstance(value, bool) else value)


def _ticking(kind: str, ticking: Iterable[object]) -> Iterator[tuple[str, str, str]]:
    for one in sorted(ticking, key=lambda each: str(getattr(each, "name", ""))):
        name, said = getattr(one, "name", ""), getattr(one, "description", "")
        yield code(_any(name)), kind, _any(plain(said or ""))


def _any(text: str) -> str:
    """A text about our two examples as a text about any."""
    return re.sub(rf"{_SOURCE}|{_BANK}", lambda found: found.group().upper(), text)

"""From a YAML file to a `SourceDefinition`, and from a definition to what identifies its mapping.

Belongs here: YAML, paths and environment variables, hashes.
Does not: what is allowed (`models.py`), the wording of errors (`wording.py`).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.wording import kind_of, reason_of, sentence
from backfill_pipeline.errors import SourceDefinitionError, SourceFileError

MAPPING_LANGUAGE_VERSION: Final = 1
"""Raised when the same definition would map the same row to another entry than before."""

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_FILE_KEYS: Final = (
    ("file",),
    ("account_map", "file"),
    ("accounts", "file"),
    ("database", "sqlite"),
    ("api", "ca_file"),
    ("scb", "ca_file"),
)
_URL_KEYS: Final = (("api", "base_url"), ("scb", "base_url"))


def load_definition(path: Path) -> SourceDefinition:
    """Reads one source definition.

    Paths inside are relative to the real directory of the YAML file; `${NAME}` and `${NAME:-default}` are expanded
    in them and in the base_url of `api` and `scb`, and nowhere else.

    Raises:
        SourceDefinitionError: one sentence naming file, key, value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceDefinitionError(f"{path}: there is no such source definition.") from None
    except UnicodeDecodeError:
        raise SourceDefinitionError(
            f"{path}: is not UTF-8 text: save the source definition as UTF-8."
        ) from None
    except OSError as error:
        raise SourceDefinitionError(f"{path}: cannot be read: {reason_of(error)}.") from None
    return parse_definition(parse_yaml(text, path), path)


def parse_definition(data: object, path: Path) -> SourceDefinition:
    """A definition from what its YAML holds.

    Args:
        data: the parsed YAML.
        path: where it was read from; relative paths inside start at its real directory.

    Raises:
        SourceDefinitionError: as `load_definition`.
    """
    if not isinstance(data, Mapping):
        raise SourceDefinitionError(
            f"{path}: must be a mapping of keys to values (id, type, file, fields, …), not {kind_of(data)}."
        )
    try:
        definition = SourceDefinition.model_validate(with_paths(data, path))
    except ValidationError as error:
        raise SourceDefinitionError(sentence(path, error)) from None
    definition._path = path
    return definition


def mapping_parts(definition: SourceDefinition) -> dict[str, str]:
    """Section of the definition → SHA-256 of all in it that decides what rows become.

    Paths do not count, the content of the account map, lookup and accounts files does. Description, owners, config,
    online, freshness, error rate and partition size do not: they may change between two tries.

    Raises:
        SourceFileError: an account map, lookup or accounts file cannot be read.
    """
    # Without defaults: a release that adds an optional key must not change the mapping of every source there is. One
    # that changes a default raises MAPPING_LANGUAGE_VERSION.
    whole = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    parts: dict[str, object] = {
        key: whole.get(key) for key in ("id", "type", "csv", "fields", "metadata", "unknown_accounts")
    }
    parts["language"] = MAPPING_LANGUAGE_VERSION
    account_map, accounts = definition.account_map, definition.accounts
    for section in (
        "columns",
        "rules",
        "transactions",
        "member",
        "fixed",
        "parquet",
        "xlsx",
        "mt940",
        "camt",
        "database",
    ):
        # Only where there are any: sources from before them keep their hash.
        if section in whole:
            parts[section] = whole[section]
    if (bank := definition.scb) is not None:
        # How a day is asked for, page by page, may change; which day it is stands in the id.
        parts["scb"] = {"bank_id": bank.bank_id, "ledger": bank.bank_ledger, "timezone": bank.timezone}
    elif definition.api is not None:
        parts["api"] = definition.api.deciding()
    if definition.lookups:
        parts["lookups"] = {
            name: _with_content(whole["lookups"][name], lookup.file)
            for name, lookup in definition.lookups.items()
        }
    parts["account_map"] = account_map and _with_content(whole["account_map"], account_map.file)
    parts["accounts"] = accounts and _with_content(whole["accounts"], accounts.file)
    return {key: _sha256(parts[key]) for key in sorted(parts)}


def mapping_sha256(definition: SourceDefinition) -> str:
    """One SHA-256 over `mapping_parts`: rows of the same source file become the same entries while it is the same."""
    return _sha256(mapping_parts(definition))


# --- YAML -------------------------------------------------------------------------------------------------------


class TextLoader(yaml.SafeLoader):
    """Safe YAML in which every scalar is text, as written, but for null; the models turn text into numbers.

    YAML's own guesses would turn the account 00123 into 83, the country NO into false and 1e3 into a float.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """A mapping; a key that is given twice is an error, with both lines."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is given twice, on lines {seen[key.value]} and {line}"
                    )
                seen[key.value] = line
        mapping: dict[object, object] = super().construct_mapping(node, deep)
        return mapping


TextLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, path: Path) -> object:
    """What a YAML text holds, every scalar as text; raises SourceDefinitionError, with the YAML error as context."""
    try:
        return yaml.load(text, Loader=TextLoader)  # noqa: S506  a SafeLoader with fewer conversions
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if mark is None:
            raise SourceDefinitionError(f"{path}: {error.problem}.") from None
        raise SourceDefinitionError(
            f"{path}: is not valid YAML at line {mark.line + 1}, column {mark.column + 1}: {error.problem}."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceDefinitionError(f"{path}: is not valid YAML: {str(error).splitlines()[0]}.") from None


# --- paths ------------------------------------------------------------------------------------------------------


def with_paths(data: Mapping[object, object], path: Path) -> dict[object, object]:
    """A copy in which every file path is absolute, and variables are expanded in them and in the addresses of APIs."""
    copied = dict(data)
    lookups = data.get("lookups")
    more = [("lookups", str(name), "file") for name in lookups] if isinstance(lookups, Mapping) else []
    for *outer, key in (*_FILE_KEYS, *more):
        holder = copied
        for name in outer:
            inner = holder.get(name)
            if not isinstance(inner, Mapping):
                break
            holder[name] = holder = dict(inner)
        else:
            value = holder.get(key)
            if isinstance(value, str):
                holder[key] = str(_absolute(value, path, ".".join([*outer, key])))
    for name, key in _URL_KEYS:
        section = copied.get(name)
        if isinstance(section, Mapping) and isinstance(url := section.get(key), str):
            copied[name] = {**section, key: _expanded(url, path, f"{name}.{key}")}
    if isinstance(files := copied.get("files"), str | list):
        copied["files"] = [
            str(_absolute(one, path, "files")) if isinstance(one, str) else one
            for one in ([files] if isinstance(files, str) else files)
        ]
    return copied


def _expanded(text: str, path: Path, key: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = os.environ.get(name) or default
        if value is None:
            raise SourceDefinitionError(
                f"{path}: {key} is {text!r}, but the environment variable {name} is not set: "
                f"set it, or give a default as ${{{name}:-default}}."
            )
        return value

    return _VARIABLE.sub(value_of, text)


def _absolute(text: str, path: Path, key: str) -> Path:
    expanded = _expanded(text, path, key)
    if not expanded.strip():
        raise SourceDefinitionError(f"{path}: {key} is {text!r}: must name a file.")
    if "\0" in expanded:
        raise SourceDefinitionError(f"{path}: {key} holds a NUL character: must name a file.")
    return (path.resolve().parent / Path(expanded).expanduser()).resolve()


# --- hashes -----------------------------------------------------------------------------------------------------


def _with_content(section: dict[str, object], file: Path | None) -> dict[str, object]:
    """The section with the content's hash in place of the path."""
    content = None
    if file is not None:
        try:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise SourceFileError(f"{file}: cannot be read: {reason_of(error)}.") from None
    return {**section, "file": content}


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

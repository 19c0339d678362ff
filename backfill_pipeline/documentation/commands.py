"""The page of commands, from the command line itself.

Belongs here: every command with its arguments, options and help.
Does not: what commands do, examples (`docs/`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import typer.main
from typer.core import TyperArgument, TyperGroup, TyperOption

from backfill_pipeline.cli.app import app
from backfill_pipeline.documentation.markdown import code, page, plain, table

if TYPE_CHECKING:
    from typer._click.core import Command, Context

_Parameter: TypeAlias = TyperArgument | TyperOption

_INTRODUCTION = """\
`backfill COMMAND --help` prints the same in a terminal. SOURCE is an id, or the path of a source file; with `@` and a
date, such as `scb_01@2024-03-01`, a day of a bank. Results go to standard output; progress, remarks and errors go to
standard error. What an exit code says is [a page of its own](exit-codes.md)."""


def commands_page() -> str:
    """`docs/reference/commands.md`."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    context = root.context_class(root, info_name="backfill")
    parts = [part for name in sorted(root.commands) for part in _command(root.commands[name], name, context)]
    return page("Commands", _INTRODUCTION, *parts)


def _command(command: Command, name: str, parent: Context) -> Iterator[str]:
    """A command, or a group with its commands, in the order in which `--help` lists them."""
    context = command.context_class(command, info_name=name, parent=parent)
    yield (
        f"## {context.command_path}"
        if context.parent is parent.find_root()
        else f"### {context.command_path}"
    )
    if isinstance(command, TyperGroup):
        yield from _paragraphs(command.help)
        if (usual := getattr(command, "default_command", None)) is not None:
            yield f"`{context.command_path}` alone is `{context.command_path} {usual}`."
        for one, inner in command.commands.items():
            yield from _command(inner, one, context)
        return
    parameters = [one for one in command.params if isinstance(one, TyperArgument | TyperOption)]
    yield f"```text\n{_usage(parameters, context)}\n```"
    yield from _paragraphs(command.help)
    shown = [one for one in parameters if not one.hidden]
    yield table(("argument or option", "default", ""), [_row(one, context) for one in shown])


def _paragraphs(text: str | None) -> Iterator[str]:
    yield from (plain(one) for one in inspect.cleandoc(text or "").split("\n\n") if one.strip())


def _usage(parameters: Sequence[_Parameter], context: Context) -> str:
    words = [context.command_path]
    for one in parameters:
        if isinstance(one, TyperArgument):
            name = one.display_name_raw + ("..." if one.nargs == -1 else "")
            words.append(name if one.required else f"[{name}]")
        elif one.required:
            words.append(f"{one.opts[0]} {_value(one, context)}")
    return " ".join([*words, "[OPTIONS]"] if len(words) <= len(parameters) else words)


def _row(one: _Parameter, context: Context) -> tuple[str, str, str]:
    if isinstance(one, TyperArgument):
        return code(one.display_name_raw), "" if not one.required else "required", plain(one.help or "")
    takes = "" if one.is_flag else f" {_value(one, context)}"
    names = ", ".join(code(name + takes) for name in one.opts)
    if one.required:
        default = "required"
    elif one.is_flag or one.default is None or one.default in ((), []):
        default = ""
    else:
        default = code(one.default)
    return names, default, plain(one.help or "") + _limits(one)


def _value(one: _Parameter, context: Context) -> str:
    """What an option takes, in capitals, or the values that it may have."""
    shown: str = one.display_name_raw
    if shown != one.name:  # a name that was given on purpose
        return shown
    kind = one.display_type(context).strip("<>")
    return kind if "|" in kind else {"int range": "N", "int": "N", "float range": "X"}.get(kind, kind.upper())


def _limits(one: TyperOption) -> str:
    """What a number may be, where only some are allowed."""
    if one.min is None and one.max is None:
        return ""
    if one.max is None:
        return f" At least {one.min:,}."
    return f" {one.min:,} to {one.max:,}."

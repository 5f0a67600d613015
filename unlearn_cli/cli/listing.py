"""`unlearn list-*` and `unlearn show`: what is installed, read without importing any of it."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence

import click

from unlearn_cli.catalog import KINDS, Kind, Option, Plugin, plugins
from unlearn_cli.catalog.check import did_you_mean
from unlearn_cli.catalog.source import shared_options
from unlearn_cli.cli.options import json_option
from unlearn_cli.errors import PluginError
from unlearn_cli.safe_text import clean

_SUMMARY_WIDTH = 100


def _lister(kind: Kind, title: str) -> click.Command:
    """The command `list-KINDs`."""

    @click.command(f"list-{kind}s", help=f"List the {title}: name, summary, distribution.")
    @json_option
    def command(as_json: bool) -> None:
        _print(plugins(kind), as_json, _table)

    return command


list_methods = _lister("method", "unlearning methods")
list_datasets = _lister("dataset", "data sets")
list_evaluators = _lister("evaluator", "evaluators")
list_metrics = _lister("metric", "metrics")


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Look among plugins of this kind only.")
@json_option
def show(name: str, kind: Kind | None, as_json: bool) -> None:
    """Show the plugin NAME (or NAME@DISTRIBUTION): options, paper, where it is defined.

    Where plugins of several kinds have the name, all of them are shown.
    """
    kinds = [kind] if kind else KINDS
    everything = [plugin for k in kinds for plugin in plugins(k)]
    found = [plugin for plugin in everything if name in (plugin.name, plugin.qualified)]
    if not found:
        known = {plugin.name for plugin in everything}
        raise PluginError(
            f"there is no {kind or 'plugin'} {name!r}", hint=did_you_mean(name, known)
        )
    _print(found, as_json, lambda shown: "\n\n".join(map(_page, shown)))


def _print(
    found: Sequence[Plugin], as_json: bool, render: Callable[[Sequence[Plugin]], str]
) -> None:
    if as_json:
        facts = [dataclasses.asdict(plugin) for plugin in found]
        click.echo(json.dumps(facts, indent=2, default=str))
    else:
        click.echo(clean(render(found), keep_newlines=True))


def _table(found: Sequence[Plugin]) -> str:
    """Aligned columns: name, summary or error, distribution."""
    rows = [(p.name, _headline(p), f"{p.distribution} {p.version}") for p in found]
    return "\n".join(_aligned(rows)) if rows else "none is installed"


def _headline(plugin: Plugin) -> str:
    if plugin.error:
        return f"BROKEN: {plugin.error}"
    return textwrap.shorten(plugin.summary, _SUMMARY_WIDTH, placeholder=" ...")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _page(plugin: Plugin) -> str:
    """Everything about one plugin, for people."""
    blocks = [
        f"{plugin.kind} {plugin.name}",
        f"BROKEN: {plugin.error}" if plugin.error else "",
        plugin.doc,
        "\n".join(_facts(plugin)),
        _options("Options", plugin.options),
        _options("Options of every method", _shared(plugin)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _facts(plugin: Plugin) -> list[str]:
    facts = [
        ("requires", ", ".join(plugin.requires)),
        ("class", plugin.target),
        ("file", str(plugin.file or "")),
        ("from", f"{plugin.distribution} {plugin.version}"),
    ]
    return list(_aligned([fact for fact in facts if fact[1]]))


def _options(title: str, options: Sequence[Option]) -> str:
    if not options:
        return ""
    rows = [(f"  {o.name}", o.type, _default(o), o.help) for o in options]
    return "\n".join([f"{title}:", *_aligned(rows)])


def _default(option: Option) -> str:
    """As TOML writes it, where the value is known."""
    if option.required:
        return "required"
    if option.default is None:
        return "optional" if option.default_text == "None" else f"= {option.default_text}"
    return f"= {json.dumps(option.default, ensure_ascii=False)}"


def _shared(plugin: Plugin) -> list[Option]:
    """gamma, alpha and retain, with the method's own defaults."""
    shared = shared_options() if plugin.kind == "method" and plugin.defaults else ()
    return [dataclasses.replace(option, default=plugin.defaults[option.name]) for option in shared]

"""A run's configuration: a preset, overrides, and the plugins that its tables activate.

preset (TOML) -> --set, --plugin, --no-plugin -> strict values -> values chosen by rule -> `Config`
"""

from __future__ import annotations

import importlib.resources
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import tomli
import tomli_w

from bigrun.architectures import from_architecture
from bigrun.errors import ConfigError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.options import NoEffect
from bigrun.other_names import whereabouts
from bigrun.overrides import laid_over, leaves, override
from bigrun.redaction import Redactor, find_redacted, secrets_of
from bigrun.rules import Choice, EngineConfig, choose, cross_problems, warnings
from bigrun.values import Problem, did_you_mean, show, structure, unstructure

__all__ = ["Config", "Document", "build_config", "find_preset", "read_preset", "read_written", "shipped_presets"]


@attrs.frozen
class Document:
    """A preset with its overrides, not yet interpreted."""

    source: str
    """What messages call it: the file or the preset's name."""
    name: str
    tables: Mapping[str, Any]
    written: frozenset[str] = frozenset()
    """Options that stand there because a run has written down all of its own, `data.prefetch`: nobody has set them, so
    that one which has no effect beside an override is no mistake."""

    def overridden(
        self, sets: Sequence[str] = (), plugins: Sequence[str] = (), no_plugins: Sequence[str] = ()
    ) -> Document:
        """With overrides, as `read_preset` takes them; what they set is set by somebody."""
        tables = override(self.tables, sets, plugins, no_plugins)
        return attrs.evolve(self, tables=tables, written=self.written.difference(leaves(override({}, sets))))


@attrs.frozen(kw_only=True)
class Config(EngineConfig):
    """The resolved configuration: no value is open."""

    source: str
    name: str
    plugins: Mapping[str, Any] = attrs.field(factory=dict)
    """Active plugins by name; the value is an instance of the plugin's `Config`, or None if it has none."""
    choices: tuple[Choice, ...] = ()
    warnings: tuple[str, ...] = ()
    explicit: frozenset[str] = frozenset()
    """Options of the engine that the preset or the command line sets: `data.workers`."""
    replaced: Mapping[str, str] = attrs.field(factory=dict)
    """Tables without meaning, by the plugin that replaces the objective they are of."""

    def tables(self) -> dict[str, Any]:
        """The whole configuration as TOML tables, plugins included, without replaced ones."""
        names = [field.name for field in attrs.fields(EngineConfig) if field.name not in self.replaced]
        tables = {name: unstructure(getattr(self, name)) for name in names}
        return tables | {"plugins": {n: unstructure(c) if c is not None else {} for n, c in self.plugins.items()}}

    def redactor(self) -> Redactor:
        """Takes this configuration's secrets, and those of the environment, out of what is written or printed."""
        return Redactor.of_environment(secrets_of(self))

    def public_tables(self) -> dict[str, Any]:
        """`tables` without secrets."""
        redactor, tables = self.redactor(), self.tables()
        public = {
            name: redactor.table(table, getattr(self, name)) for name, table in tables.items() if name != "plugins"
        }
        plugins = tables["plugins"].items()
        return public | {"plugins": {n: redactor.table(t, c) if (c := self.plugins[n]) else {} for n, t in plugins}}

    def to_toml(self) -> str:
        """What a run writes down of its configuration: a preset of the same run, but for its secrets."""
        return tomli_w.dumps(self.public_tables())


def shipped_presets() -> dict[str, Traversable]:
    """Presets inside the package, by name."""
    folder = importlib.resources.files("bigrun") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f for f in files}


def find_preset(preset: str) -> Traversable:
    """A preset by path, or by the name of a shipped one.

    Raises:
        UsageError: there is none.
    """
    if preset.endswith(".toml") or "/" in preset:
        path = Path(preset)
        if path.is_file():
            return path
        hint = did_you_mean_path(path, lambda other: other.suffix == ".toml" and other.is_file())
        raise UsageError(f"{preset}: no such file{hint}; `bigrun presets` lists the presets that have a name")
    presets = shipped_presets()
    if preset not in presets:
        raise UsageError(
            f"{preset}: no preset of that name{did_you_mean(preset, presets)}; "
            f"shipped: {', '.join(presets)}; a file of your own ends in .toml"
        )
    return presets[preset]


def read_preset(
    preset: str,
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> Document:
    """Read a preset and apply overrides: `--with FILE`, `--set KEY=VALUE`, `--plugin NAME`, `--no-plugin NAME`.

    Raises:
        UsageError: a file is not there or is not TOML, or an override cannot be understood.
    """
    try:
        file = find_preset(preset)
    except OSError as error:
        raise UsageError(f"{preset}: cannot be read: {error.strerror}") from None
    tables = read_tables(file, preset)
    for more in files:
        tables = laid_over(tables, read_tables(more, f"--with {more}"))
    return Document(preset, file.name.removesuffix(".toml"), override(tables, sets, plugins, no_plugins))


def read_written(file: Path) -> Document:
    """The configuration that a run has written down (`Config.to_toml`), for whoever looks at the run.

    Raises: UsageError, as `read_preset` does.
    """
    document = read_preset(str(file))
    return attrs.evolve(document, written=frozenset(leaves(document.tables)))


def read_tables(file: Traversable, name: str) -> dict[str, Any]:
    """
    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        return tomli.loads(file.read_text(encoding="utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: not valid TOML: {error}") from None
    except OSError as error:
        hint = did_you_mean_path(file, Path.is_file) if isinstance(file, Path) else ""
        raise UsageError(f"{name}: cannot be read: {error.strerror}{hint}") from None


def build_config(
    document: Document,
    plugin_configs: Mapping[str, type | None],
    problems: list[Problem],
    replaced: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Interpret a document; `plugin_configs` has the `Config` class of every active plugin that could be loaded.

    `problems` holds what was already found about plugins; it is reported together with everything else. `replaced`
    has the tables that mean nothing in this run, by the plugin that replaces them: nothing may be set in them, and
    nothing in them is checked or chosen.

    Raises:
        ConfigError: with every problem of the whole document.
    """
    sections: dict[str, type] = typing.get_type_hints(EngineConfig)
    named = from_architecture(document.tables.get("model"))
    tables = {**document.tables, "model": {**document.tables["model"], **named}} if named else document.tables
    parts: dict[str, Any] = {}
    for key in document.tables:
        if key != "plugins" and key not in sections:
            homes = [f"{name}.{key}" for name, cls in sections.items() if key in attrs.fields_dict(cls)]
            hint = f" - did you mean {homes[0]!r}?" if homes else did_you_mean(key, [*sections, "plugins"])
            problems.append((key, f"unknown table{hint}"))
    for name, cls in sections.items():
        if name in replaced and document.tables.get(name):
            problems.append((name, f"has no effect: plugin {replaced[name]} replaces it; remove the table"))
        parts[name] = structure(tables.get(name, {}), cls, name, problems)
    problems[:] = [(path, text + whereabouts(path, text, sections)) for path, text in _meant(document, problems)]
    plugins = _plugin_tables(document, plugin_configs, problems)
    problems[:] = [*_meant(document, problems), *find_redacted(document.tables)]
    if problems:
        raise ConfigError(document.source, problems)
    chosen, choices = choose(EngineConfig(**parts))
    choices[:0] = [Choice(f"model.{name}", value, f"of {chosen.model.architecture}") for name, value in named.items()]
    chosen = _absolute(chosen)
    crossing = ((path, text) for path, text in cross_problems(chosen) if path.partition(".")[0] not in replaced)
    if problems := _meant(document, crossing):
        raise ConfigError(document.source, problems)
    set_values = frozenset(f"{name}.{key}" for name in sections for key in document.tables.get(name, {}))
    return Config(
        **{name: getattr(chosen, name) for name in sections},
        source=document.source,
        name=document.name,
        plugins=plugins,
        choices=tuple(choice for choice in choices if choice.path.partition(".")[0] not in replaced),
        warnings=tuple(warnings(chosen, replaced)),
        explicit=set_values - {choice.path for choice in choices},
        replaced=dict(replaced),
    )


def _meant(document: Document, problems: Iterable[Problem]) -> list[Problem]:
    """Without options that nobody has set and that have no effect."""
    return [(path, text) for path, text in problems if not (isinstance(text, NoEffect) and path in document.written)]


def _plugin_tables(document: Document, configs: Mapping[str, type | None], problems: list[Problem]) -> dict[str, Any]:
    tables = document.tables.get("plugins", {})
    if not isinstance(tables, Mapping):
        problems.append(("plugins", "expected a table of plugins, as in [plugins.NAME]"))
        return {}
    plugins: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in configs:
            continue  # it could not be loaded; that is a problem already
        cls, path = configs[name], f"plugins.{name}"
        if cls is not None and not attrs.has(cls):
            problems.append((path, f"its Config, {cls.__name__}, is not an attrs class"))
        elif cls is not None:
            plugins[name] = structure(table, cls, path, problems)
        elif not isinstance(table, Mapping):
            problems.append((path, f"expected a table, got {show(table)}; --no-plugin {name} switches it off"))
        elif table:
            problems.append((path, f"this plugin has no options, got {', '.join(map(repr, table))}"))
        else:
            plugins[name] = None
    return plugins


def _absolute(config: EngineConfig) -> EngineConfig:
    """Make paths independent of the directory from which a resumed run is started."""
    for table, option in (("data", "path"), ("data", "index"), ("data", "split"), ("init", "path")):
        part = getattr(config, table)
        if getattr(part, option) is not None:
            path = str(Path(getattr(part, option)).expanduser().absolute())
            config = attrs.evolve(config, **{table: attrs.evolve(part, **{option: path})})
    return config

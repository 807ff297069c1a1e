"""Options that are generated from the signature and the docstring of a function or class."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Collection, Mapping
from inspect import getdoc, signature
from textwrap import dedent
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    """A parameter as its docstring describes it."""

    name: str
    types: str
    """Text of its types, such as "int or (rows, columns)"."""
    default: Any
    summary: str
    """First sentence of its description."""
    choices: dict[str, str]
    """Names that are valid values, each with what the docstring says about it, or ""."""


def read_parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the documented parameters of a function or class by name, in the documented order."""
    text = (getdoc(function) or "").split("Parameters\n----------\n")[1]
    text = re.split(r"\n\n[A-Z][\w ]*\n-+\n", text)[0]
    defaults = {name: each.default for name, each in signature(function).parameters.items()}
    parameters = {}
    for match in re.finditer(r"^(\w+) : (.*)\n((?:    .*\n?|\n)*)", text, re.MULTILINE):
        name, types = match[1], re.sub(r", default=.*", "", match[2])
        description = dedent(match[3])
        parameters[name] = Parameter(
            name=name,
            types=types,
            default=defaults[name],
            summary=_summarize(description),
            choices=_find_choices(types, description),
        )
    return parameters


def _summarize(description: str) -> str:
    """Return the first sentence without markup."""
    paragraph = " ".join(re.split(r"\n\n|\n- |^- ", description)[0].split())
    match = re.match(r"(.+?)[.:](?= |$)", paragraph)
    return re.sub(r"[`~]", "", match[1] if match else paragraph)


def _find_choices(types: str, description: str) -> dict[str, str]:
    """Return the names among the types, or, for a string, those in the list of the description."""
    listed: dict[str, str] = {}
    items = [
        " ".join(item.split()) for item in re.findall(r"^- (.*(?:\n  .*)*)", description, re.M)
    ]
    for item in items:
        if match := re.match(r'"(\w+)": (.*?)[;.]?$', item):
            listed[match[1]] = match[2]
    if re.search(r"\bstr\b", types):
        if not listed:
            listed = dict.fromkeys(re.findall(r'"(\w+)"', " ".join(items)), "")
        return listed
    return {name: listed.get(name, "") for name in re.findall(r'"(\w+)"', types)}


class Converter:
    """Convert the text of an option to a value of one of the documented types."""

    def __init__(self, parameter: Parameter) -> None:
        types = parameter.types
        self._choices = [*parameter.choices]
        self._is_optional = parameter.default is None or bool(re.search(r"\bNone\b", types))
        self._has_bool, self._has_int, self._has_float = (
            bool(re.search(rf"\b{name}\b", types)) for name in ("bool", "int", "float")
        )
        self._has_list = "list of these" in types
        pair = re.search(r"\((rows|height), (columns|width)\)", types)
        self._pair = f"{pair[1]},{pair[2]}" if pair else ""

    @property
    def rule(self) -> str:
        """What the text must be."""
        rules = [*self._choices]
        rules += ["several of these joined by commas"] * self._has_list
        rules += ["true", "false"] * self._has_bool
        rules += ["an integer"] * self._has_int + ["a number"] * self._has_float
        if self._pair == "height,width":
            rules += ["two integers such as 64 48"]
        elif self._pair:
            rules += [f"two integers {self._pair}"]
        rules += ["none"] * self._is_optional
        return " or ".join([", ".join(rules[:-1]), rules[-1]] if rules[1:] else rules)

    def __call__(self, text: str) -> Any:
        """Return the value, or raise the error that argparse expects."""
        parts = text.split(",")
        if text in self._choices:
            return text
        if self._has_list and {*parts} <= {*self._choices}:
            return parts
        if self._is_optional and text.lower() == "none":
            return None
        if self._has_bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        for kind, allowed in ((int, self._has_int), (float, self._has_float)):
            if allowed:
                try:
                    return kind(text)
                except ValueError:
                    pass
        if self._pair and len(parts) == 2:
            try:
                return tuple(map(int, parts))
            except ValueError:
                pass
        raise ArgumentTypeError(f"{text!r} is not {self.rule}")


def option_name(name: str) -> str:
    """Return the option of a parameter: "n_jobs" becomes "--n-jobs"."""
    return f"--{name.replace('_', '-')}"


def add_options(
    group: Any,
    function: Callable[..., Any],
    names: Collection[str],
    *,
    defaults: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    required: Collection[str] = (),
) -> None:
    """Add an option for each of the parameters; those that are not given are not in the result.

    ``defaults`` and ``texts`` are shown instead of those of the docstring.
    """
    for parameter in read_parameters(function).values():
        name = parameter.name
        if name not in names:
            continue
        default = (defaults or {}).get(name, parameter.default)
        is_flag = parameter.types == "bool"
        converter = Converter(parameter)
        more: dict[str, Any] = {"action": BooleanOptionalAction}
        if not is_flag:
            more = {"type": converter, "metavar": _find_metavar(parameter)}
            if "bool" in parameter.types:
                more |= {"nargs": "?", "const": True}
        notes = [converter.rule] * (not is_flag and name not in (texts or {}))
        if default is not None and name not in required:
            notes.append(f"default: {str(default).lower() if is_flag else default}")
        text = (texts or {}).get(name) or parameter.summary[0].lower() + parameter.summary[1:]
        text += f" ({'; '.join(notes)})" if notes else ""
        group.add_argument(
            option_name(name),
            dest=name,
            default=SUPPRESS,
            required=name in required,
            help=text.replace("%", "%%"),
            **more,
        )


def _find_metavar(parameter: Parameter) -> str:
    """Return what stands for the value in the help."""
    if "(height, width)" in parameter.types:
        return "HEIGHT WIDTH"
    if parameter.choices and not re.search(r"\b(int|float)\b", parameter.types):
        return "NAME"
    return "N" if re.fullmatch(r"int\b[^(]*", parameter.types) else "VALUE"

"""The dataclass behind one rule, and the JSON schema generated from it.

`KEYS` gives for each field the YAML form it is read from and a sentence of help; `load` and `rules/schema.json` both
follow that table, so that documentation, editor support and checking cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from symgraph.groups.lattice import Bound, classes, describe
from symgraph.rules.condition import Condition
from symgraph.rules.pattern import Pattern
from symgraph.rules.signature import Signature

STRUCTURES = (
    "reshape",
    "permute",
    "transpose",
    "movedim",
    "turns",
    "by_turns",
    "cat",
    "split",
    "slice",
    "select",
    "expand",
    "squeeze",
    "unsqueeze",
    "stack",
    "repeat",
    "getitem",
    "flatten",
    "unflatten",
    "unbind",
    "index",
    "identity",
    "constant",
    "zero",
    "pad",
    "windows",
    "rigid",
)
BROADCASTS = ("ones", "free", "never")
LAYOUTS = ("halves", "interleaved")
FACTS = ("distinct", "open")
SOURCES = ("proof:", "paper:", "measured:")


class Admits(dict[str, Bound]):
    """Bound per axis; numbered axes of a binding ("...1", "*0", "d.1") are found under their plain name."""

    def __missing__(self, name: str) -> Bound:
        plain = "..." if name[:3] == "..." else "*" if name[:1] == "*" else name.split(".")[0]
        if plain == name or plain not in self:
            raise KeyError(name)
        return self[plain]


@dataclass(frozen=True, slots=True)
class Example:
    """Shapes and arguments at which the law of a rule is tried.

    `sizes` gives named axes, `batch` the batch axes, `args` further arguments (the name of an axis stands for its
    size), `omit` operands that are left out, `keep` axes whose size the operator reads by itself, `integers` operands
    holding indices into an axis, `booleans` operands holding masks, `complex` operands holding complex numbers, and
    `positive` and `bounded` operands that are made positive, or lie between -1 and 1, where the operator has no value
    otherwise.
    """

    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    batch: tuple[int, ...] = (2, 3)
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    omit: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    integers: Mapping[str, str] = field(default_factory=dict, hash=False)
    booleans: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    complex: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a rule: the YAML form it is read from and a sentence of help."""

    name: str
    form: str
    about: str


KEYS = (
    Key("rule", "text", "Name of the rule: kebab-case and unique."),
    Key("about", "text", "One sentence that says what the operator does to its axes."),
    Key("source", "source", "Why it is true: 'proof: ...', 'paper: ...' or 'measured: ...'."),
    Key("ops", "texts", "Operators, as 'aten.linear.default'."),
    Key("pattern", "patterns", "Spellings of an idiom of several operators."),
    Key("structure", "structure", "A built-in way to move axes, instead of a signature."),
    Key("signature", "signature", "Axes of operands and results: 'input[... i], weight[o i'] -> [... o]'."),
    Key("admits", "classes", "The class, or classes, that each axis admits."),
    Key("at", "strings", "The argument that gives the position of an axis."),
    Key("sizes", "strings", "The argument that gives the size of an axis."),
    Key("reduces", "text", "An axis that the result no longer has."),
    Key("when", "condition", "A condition on the arguments; where it is false the rule is silent."),
    Key(
        "product",
        "numbers",
        "The result's element is the product of the operands' to these powers; `~` there says that it has no scale.",
    ),
    Key("gain", "text", "The operand that multiplies the result at the end."),
    Key("adds", "text", "The operand that is added to the result at the end."),
    Key(
        "statistics", "texts", "Operands that gain and bias can make up for: the result is affine in the first operand."
    ),
    Key("points", "strings", "For a result, by number, that holds positions: the axis they are positions in."),
    Key("indexes", "strings", "For an operand that holds positions: the axis that they pick along."),
    Key(
        "blind", "strings", "For an operand, an axis or several: adding something constant along these changes nothing."
    ),
    Key("radial", "text", "An operand whose length is not seen: a common positive factor changes nothing."),
    Key(
        "shift",
        "strings",
        "What adding a constant to an operand adds to the result: output, minus, none, or the operand to multiply by.",
    ),
    Key("chooses", "texts", "Operands of whose entries one is chosen: what is added to all is added to the result."),
    Key("differs", "texts", "Two operands of which the difference alone is seen: what is added to both is not."),
    Key("centred", "text", "An axis whose mean is neither seen nor produced."),
    Key("weights", "text", "An axis of the result along which its entries sum to one."),
    Key(
        "assumes",
        "facts",
        "What must be known of an operand: open (a mask with an open place in each row), or distinct.",
    ),
    Key("names", "strings", "Names for the spaces of these axes."),
    Key("layout", "layout", "Which pairs rotate together: halves or interleaved."),
    Key(
        "broadcast",
        "broadcast",
        "What an operand that is constant along an axis demands: ones or free; never, if the operator has no such.",
    ),
    Key("gaps", "strings", "Axes left looser than is true, and why."),
    Key("examples", "examples", "Shapes and arguments at which the rule is checked."),
    Key("never", "patterns", "Expressions that the pattern must not match."),
)
REQUIRED = ("rule", "about", "source")


@dataclass(frozen=True, slots=True)
class Rule:
    """How the axes of one operator, or of one idiom of several, transform together; `KEYS` explains each field."""

    rule: str
    about: str
    source: str
    ops: tuple[str, ...] = ()
    pattern: tuple[Pattern, ...] = ()
    structure: str | None = None
    signature: Signature | None = None
    admits: Mapping[str, Bound] = field(default_factory=dict, hash=False)
    at: Mapping[str, str] = field(default_factory=dict, hash=False)
    sizes: Mapping[str, str] = field(default_factory=dict, hash=False)
    reduces: str | None = None
    when: Condition | None = None
    product: Mapping[str, int] = field(default_factory=dict, hash=False)
    gain: str | None = None
    adds: str | None = None
    statistics: tuple[str, ...] = ()
    points: Mapping[str, str] = field(default_factory=dict, hash=False)
    indexes: Mapping[str, str] = field(default_factory=dict, hash=False)
    blind: Mapping[str, str] = field(default_factory=dict, hash=False)
    radial: str | None = None
    shift: Mapping[str, str] = field(default_factory=dict, hash=False)
    chooses: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    centred: str | None = None
    weights: str | None = None
    assumes: Mapping[str, str] = field(default_factory=dict, hash=False)
    names: Mapping[str, str] = field(default_factory=dict, hash=False)
    layout: str | None = None
    broadcast: str = "ones"
    gaps: Mapping[str, str] = field(default_factory=dict, hash=False)
    examples: tuple[Example, ...] = (Example(),)
    never: tuple[Pattern, ...] = ()
    place: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.admits, Admits):
            object.__setattr__(self, "admits", Admits(self.admits))

    @property
    def scalars(self) -> tuple[str, ...]:
        """Pointwise operands for which a number may stand."""
        operands = self.signature.operands if self.signature else ()
        return tuple(operand.name for operand in operands if operand.axes and operand.axes[0].name == "*")

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets of the nodes that the rule explains."""
        return self.ops or (f"pattern:{self.rule}",)

    def __str__(self) -> str:
        return f"{self.rule} ({self.place})" if self.place else self.rule


DEFAULTS = {
    field.name: field.default_factory() if callable(field.default_factory) else field.default for field in fields(Rule)
}


def plain(rule: Rule) -> dict[str, Any]:
    """A rule as plain data in a canonical form: what the hash of a rule book is taken over."""
    entries: dict[str, Any] = {}
    for key in KEYS:
        value = getattr(rule, key.name)
        if key.name in REQUIRED or value != DEFAULTS[key.name]:
            entries[key.name] = _plain(value)
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, Bound):
        return describe(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Example):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value if value is None or isinstance(value, int | float | str) else str(value)


_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_CLASSES = {"enum": [str(symmetry_class) for symmetry_class in classes()]}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_FORMS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "source": {"type": "string", "pattern": f"^({'|'.join(SOURCES)})"},
    "texts": _TEXTS,
    "patterns": _TEXTS,
    "signature": {"type": "string"},
    "condition": {"type": "string"},
    "structure": {"enum": list(STRUCTURES)},
    "layout": {"enum": list(LAYOUTS)},
    "broadcast": {"enum": list(BROADCASTS)},
    "strings": _STRINGS,
    "facts": {"type": "object", "additionalProperties": {"enum": list(FACTS)}},
    "numbers": {"type": "object", "additionalProperties": {"type": "integer"}},
    "classes": {
        "type": "object",
        "additionalProperties": {"anyOf": [_CLASSES, {"type": "array", "items": _CLASSES, "minItems": 1}]},
    },
}
_LISTED = {"type": "array", "items": {"type": "string"}}
EXAMPLE_FORMS: dict[str, dict[str, Any]] = {
    "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
    "batch": {"type": "array", "items": {"type": "integer"}},
    "args": {"type": "object"},
    "omit": _LISTED,
    "keep": _LISTED,
    "integers": _STRINGS,
    "booleans": _LISTED,
    "positive": _LISTED,
    "bounded": _LISTED,
    "complex": _LISTED,
}
_EXAMPLE_ABOUT = {
    "sizes": "The sizes of named axes.",
    "batch": "The sizes of the axes that `...` stands for.",
    "args": "Arguments that are no tensors; the name of an axis stands for its size.",
    "omit": "Operands that are left out.",
    "keep": "Axes whose size the operator reads by itself.",
    "integers": "Operands that hold positions, with the axis or the number that bounds them.",
    "booleans": "Operands that hold masks.",
    "positive": "Operands that are made positive where the operator has no value otherwise.",
    "bounded": "Operands that are brought between -1 and 1 where the operator has no value otherwise.",
    "complex": "Operands that hold complex numbers.",
}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a rule file, for editors."""
    known = {name: {**form, "description": _EXAMPLE_ABOUT[name]} for name, form in EXAMPLE_FORMS.items()}
    example = {"type": "object", "additionalProperties": False, "properties": known}
    forms = {**_FORMS, "examples": {"type": "array", "items": example}}
    properties = {k.name: {**forms[k.form], "description": k.about} for k in KEYS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "symgraph rules",
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": list(REQUIRED),
            "oneOf": [{"required": ["ops"]}, {"required": ["pattern"]}],
            "properties": properties,
        },
    }


def schema_text() -> str:
    """The content of `rules/schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"

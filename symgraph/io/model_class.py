"""Which class a checkpoint of transformers is of: one that its config names, that comes with it, or that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from symgraph.errors import CheckpointError, argument, either, one_line
from symgraph.io.factories import import_factory


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose code may run: that of a class which someone names, and what comes with a checkpoint."""

    remote_code: bool = False
    model_class: str | type[Any] | None = None


class Named:
    """Where transformers is to read from, and the class and config it is to build."""

    def __init__(self, location: str, spec: str, raw: dict[str, Any], how: Trust, offline: bool) -> None:
        self.location, self.spec, self.own = location, spec, how.model_class is not None
        self.common = {"trust_remote_code": how.remote_code, "local_files_only": offline}
        _refuse_quantised(raw, spec)
        given = None if how.model_class is None else _class_of(how.model_class)
        self.cls, self.config = self._resolve(raw, given or _check_config(raw, spec, how.remote_code))

    def _resolve(self, raw: dict[str, Any], named: Any) -> tuple[Any, Any]:
        import transformers

        try:
            if not isinstance(named, str):
                of = getattr(named, "config_class", None) or transformers.AutoConfig
                return named, of.from_pretrained(self.location, **self.common)
            config = transformers.AutoConfig.from_pretrained(self.location, **self.common)
            return getattr(transformers, named, None) or self._remote_class(raw, named), config
        except Exception as e:
            raise CheckpointError(
                f"{self.spec}: the config cannot be used",
                cause=one_line(e),
                remedy="compare config.json with the one of a checkpoint that works",
            ) from e

    def _remote_class(self, raw: dict[str, Any], name: str) -> Any:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(str(_remote_reference(raw, name)), self.location)


def _check_config(raw: dict[str, Any], spec: str, trust: bool) -> str:
    """The name of the class that a config is for, if that class can be had."""
    import transformers

    name = _class_name(raw, spec)
    if hasattr(getattr(transformers, name, None), "_from_config"):
        return name
    if _remote_reference(raw, name) is None:
        raise CheckpointError(
            f"{spec}: unknown architecture {name}",
            cause=f"transformers {transformers.__version__} has no such model class",
            remedy=f"name the class, {argument('model_class', 'path/file.py:Class')}, or install the transformers that "
            "the checkpoint was written with",
        )
    if not trust:
        raise CheckpointError(
            f"{spec}: {name} needs remote code, which is off",
            cause="the class is defined by Python files that come with the checkpoint",
            remedy=either(
                "read those files; if you trust them, symgraph.model(..., trust_remote_code=True)",
                f"read those files; if you trust them, pass {argument('trust_remote_code', True)}",
            ),
        )
    return name


def _refuse_quantised(raw: dict[str, Any], spec: str) -> None:
    if quantised := raw.get("quantization_config"):
        method = quantised.get("quant_method", "unnamed") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            f"{spec}: the weights are quantised",
            cause=f"config.json has a quantization_config ({method})",
            remedy="name the checkpoint in float32, float16 or bfloat16 that it was made from",
        )


def _class_of(given: str | type[Any]) -> Any:
    """The class of model that someone has named.

    Raises:
        CheckpointError: it cannot be imported, or is no class of transformers models.
    """
    class_found = import_factory(given, what="class") if isinstance(given, str) else given
    if hasattr(class_found, "_from_config") and hasattr(class_found, "from_pretrained"):
        return class_found
    remedy = "derive it from transformers.PreTrainedModel; a plain module is named by a factory, path/file.py:make@FILE"
    raise CheckpointError(f"{given} is no class of transformers models", cause="it cannot read a config", remedy=remedy)


def _class_name(raw: dict[str, Any], spec: str) -> str:
    names = raw.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    raise CheckpointError(
        f"{spec}: config.json does not say which class it is for",
        cause="`architectures` is missing or empty" if not names else f"`architectures` is {names!r}, no list of names",
        remedy='add it, e.g. "architectures": ["SomeForCausalLM"] with the class in transformers',
    )


def _remote_reference(raw: dict[str, Any], name: str) -> str | None:
    listed = raw.get("auto_map")
    references = listed.values() if isinstance(listed, dict) else ()
    return next((str(reference) for reference in references if str(reference).endswith(f".{name}")), None)

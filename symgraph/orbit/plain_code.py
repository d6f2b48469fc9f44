"""An alignment as code of plain torch: what it does to a checkpoint, to be checked, or run where there is no symgraph.

    # h.{0..11}.mlp.c_fc.weight
    def move_2(weight, matrix, index):
        return (matrix @ weight).index_select(1, index)

The code is what torch is asked to do while the alignment acts, so that it gives the same bits; tensors with the same
code share one function. Index vectors and matrices are those of the alignment's own file, which stands beside it.
"""

from __future__ import annotations

import pprint
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import VerifyError
from symgraph.io.files import atomic_path, refuse_existing
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.recorded import Operand, Recorder, Statement
from symgraph.orbit.steps import Act
from symgraph.symmetry.fold import fold
from symgraph.tracing.deferred import later_in_float64

State = Mapping[str, Tensor]
DUAL = "inverse transpose of "
_SHORT = 52

_HEAD = '''"""{title}

    python {file} CHECKPOINT OUT.safetensors

CHECKPOINT is a safetensors file or a folder with them, of {model}.
Index vectors and matrices are read from {beside}, beside this file:
each is called by the number of its step, its space (or parameter), and its part.
Computed in float64; each tensor keeps its dtype.{remark}
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ELEMENTS = Path(__file__).with_name({beside!r})

'''

_TAIL = '''

def transformed(state, elements):
    """The tensors of a checkpoint in the other basis; what is not listed stays as it is."""
    named = {NAMES.get(name, name): t for name, t in state.items()}
    missing = sorted({name for _, reads, _ in MOVES.values() for name in reads if name not in named})
    if missing:
        raise SystemExit(f"the checkpoint has no {missing[0]}: it is of another architecture")

    def read(name):
        return named[name].double() if named[name].is_floating_point() else named[name]

    def element(name):
        if name.startswith("inverse transpose of "):
            return torch.linalg.inv(elements[name.removeprefix("inverse transpose of ")]).mT
        return elements[name]

    with torch.no_grad():
        done = {
            name: move(*map(read, reads), *map(element, parts)).to(named[name].dtype)
            for name, (move, reads, parts) in MOVES.items()
        }
    return {name: done.get(NAMES.get(name, name), t) for name, t in state.items()}


def main(source, out):
    if out.exists():
        raise SystemExit(f"{out} exists already")
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    state = {name: t for file in files for name, t in load_file(file).items()}
    elements = {name: t.clone() for name, t in load_file(ELEMENTS).items()}
    save_file({n: t.contiguous() for n, t in transformed(state, elements).items()}, out, {"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python " + sys.argv[0] + " CHECKPOINT OUT.safetensors")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
'''


@dataclass(frozen=True, slots=True)
class _Move:
    """What becomes of one tensor: the code of a function, and what it is called with."""

    code: str
    reads: tuple[str, ...]
    parts: tuple[str, ...]
    numbers: bool


def beside(path: Path) -> Path:
    """The file of index vectors and matrices."""
    return path.with_suffix(".safetensors")


def write_code(
    alignment: Alignment,
    state: State,
    path: str | Path,
    *,
    files: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes what an alignment does to a state as Python, and its file of index vectors and matrices beside it.

    Args:
        state: the model that it is to be applied to. Where a step depends on its numbers, the code holds for it alone,
            and says so.
        files: names that files have for tensors, where they are others than those of the state.

    Raises:
        OutputError: a file exists or cannot be written.
        VerifyError: the code does not give the bits of `Alignment.apply`.
    """
    path = Path(path)
    for out in (path, beside(path)):
        refuse_existing(out, overwrite, folder=False)
    alignment.save(beside(path), overwrite=overwrite)
    # As `apply` reads it: contiguous, and without what is not kept.
    kept = Alignment.load(beside(path), alignment.symmetry)
    text = plain_code(kept, state, path.name, files)
    _check(text, kept, state, path)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def plain_code(
    alignment: Alignment, state: State, file: str = "aligned.py", files: Mapping[str, str] | None = None
) -> str:
    """The code, for an alignment that was read from a file."""
    tied = alignment.symmetry.graph.tied
    named = {tied.get(name, name): tensor.detach() for name, tensor in state.items()}
    moving = {name: tensor for name, tensor in named.items() if name in alignment.symmetry.terms}
    wide = later_in_float64(moving)
    known = {Operand("state", name): tensor for name, tensor in wide.items()} | _elements(alignment)
    moves = {name: move for name in wide if (move := _move(alignment, wide, known, name)) is not None}
    remark = (
        "\nSome numbers in the code are those of one checkpoint."
        if any(move.numbers for move in moves.values())
        else ""
    )
    title = f"What an alignment does to {alignment.symmetry.graph.model or 'a checkpoint'}, without symgraph."
    model = f"the architecture {alignment.symmetry.graph.model}" if alignment.symmetry.graph.model else "that model"
    names = {"title": title, "file": file, "beside": Path(file).with_suffix(".safetensors").name}
    head = _HEAD.format(**names, model=model, remark=remark)
    shared = {name: standing for name, standing in tied.items() if standing in moves}
    shared |= {name: tied.get(file, file) for name, file in (files or {}).items()}
    return head + "\n".join(_body(moves, shared)) + _TAIL


def _elements(alignment: Alignment) -> dict[Operand, Tensor]:
    """The tensors of the alignment, and the inverse transposes of its matrices."""
    elements: dict[Operand, Tensor] = {}
    for number, step in enumerate(alignment.transform.steps):
        elements |= {Operand("element", f"{number}.{part}"): tensor for part, tensor in step.dump()[1].items()}
        for space, element in step.element.elements.items() if isinstance(step, Act) else ():
            if element.dual is not None and element.inverse_transpose is None:
                name = f"{number}.{alignment.symmetry.spaces[space].name}.matrix"
                elements[Operand("element", DUAL + name)] = element.dual
    return elements


def _move(alignment: Alignment, wide: State, known: Mapping[Operand, Tensor], name: str) -> _Move | None:
    """What becomes of one tensor, None if nothing."""
    recorder = Recorder(known)
    with torch.no_grad(), recorder:
        image = alignment.transform.carried(wide)[name]
    end, statements = recorder.result(image)
    if end == Operand("state", name):
        return None
    own = Operand("state", name)
    read = dict.fromkeys(operand for statement in statements for operand in statement.reads)
    states = [operand for operand in read if operand.kind == "state"]
    # The tensor itself comes first.
    if own in states or not states:
        states = [own, *(operand for operand in states if operand != own)]
    parts = [operand for operand in read if operand.kind == "element"]
    named = _named([*states, *parts])
    code = "\n".join([f"({', '.join(named.values())}):", *_lines(statements, end, named)])
    state_names, part_names = (tuple(operand.name for operand in each) for each in (states, parts))
    return _Move(code, state_names, part_names, recorder.numbers)


def _named(operands: list[Operand]) -> dict[Operand, str]:
    """Names of arguments: the last words of those of tensors, numbered where they come again."""
    names: dict[Operand, str] = {}
    for operand in operands:
        word = operand.name.rpartition(".")[2]
        word = "dual" if operand.name.startswith(DUAL) else word if word.isidentifier() else "tensor"
        count = sum(name.rstrip("0123456789").rstrip("_") == word for name in names.values())
        names[operand] = f"{word}_{count + 1}" if count else word
    return names


def _lines(statements: tuple[Statement, ...], end: Operand, named: Mapping[Operand, str]) -> Iterator[str]:
    """Statements as lines; what is read once stands in the line that reads it, while that is short."""
    uses = Counter(operand for statement in statements for operand in statement.reads)
    inline = not any(statement.writes for statement in statements)
    called, count = dict(named), 0
    for statement in statements:
        text = "".join(part if isinstance(part, str) else called.get(part, part.name) for part in statement.text)
        single = len(statement.makes) == 1 and not _is_several(statement)
        once = single and uses[statement.makes[0]] == 1 and statement.makes[0] != end
        if inline and once and len(text) < _SHORT:
            called[statement.makes[0]] = f"({text})" if statement.infix else text
            continue
        if statement.makes == (end,) and inline:
            yield f"    return {text}"
            return
        for made in statement.makes:
            called[made] = f"t{(count := count + 1)}"
        target = ", ".join(called[operand] for operand in statement.makes)
        target = f"{target}," if len(statement.makes) == 1 and _is_several(statement) else target
        yield f"    {target} = {text}" if target else f"    {text}"
    yield f"    return {called[end]}"


def _is_several(statement: Statement) -> bool:
    """Whether a call gives a list of one tensor."""
    first = "".join(part for part in statement.text if isinstance(part, str))
    return first.startswith("torch.split(") or ".unbind(" in first or ".split(" in first


def _body(moves: Mapping[str, _Move], shared: Mapping[str, str]) -> Iterator[str]:
    functions: dict[str, list[str]] = {}
    for name, move in moves.items():
        functions.setdefault(move.code, []).append(name)
    number = {code: number for number, code in enumerate(functions, 1)}
    for code, names in functions.items():
        yield from ("", *(f"# {group.pattern}" for group in fold(names)), f"def move_{number[code]}{code}", "")
    yield from (
        "",
        "# For each tensor the function, the tensors of the checkpoint and those of the alignment it reads.",
    )
    yield "MOVES = {"
    for name, move in moves.items():
        yield f"    {name!r}: (move_{number[move.code]}, {list(move.reads)!r}, {list(move.parts)!r}),"
    yield "}"
    yield "# What a checkpoint calls tensors, where that is something else; also further names of shared ones."
    yield f"NAMES = {pprint.pformat(dict(shared), width=110)}"


def _check(text: str, alignment: Alignment, state: State, path: Path) -> None:
    """Runs the code, and compares bits."""
    space: dict[str, Any] = {"__name__": "emitted", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), space)
    elements = {
        f"{number}.{name}": tensor
        for number, step in enumerate(alignment.transform.steps)
        for name, tensor in step.dump()[1].items()
    }
    given = {name: tensor.detach() for name, tensor in state.items()}
    results, expected = space["transformed"](given, elements), alignment.apply(given)
    wrong = [name for name, tensor in expected.items() if not torch.equal(results[name], tensor)]
    if wrong:
        raise VerifyError(
            f"the code of {path.name} gives other bits than the alignment for {wrong[0]}",
            remedy="use `symgraph apply`, and report the model",
        )

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
from symgraph.tracing.deferred import later

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
    named = {tied.get(n, n): t.detach() for n, t in state.items()}
    moving = {n: t for n, t in named.items() if n in alignment.symmetry.terms}
    wide = {n: later(t, torch.float64) if t.is_floating_point() else t for n, t in moving.items()}
    known = {Operand("state", n): t for n, t in wide.items()} | _elements(alignment)
    moves = {n: m for n in wide if (m := _move(alignment, wide, known, n)) is not None}
    remark = "\nSome numbers in the code are those of one checkpoint." if any(m.numbers for m in moves.values()) else ""
    title = f"What an alignment does to {alignment.symmetry.graph.model or 'a checkpoint'}, without symgraph."
    model = f"the architecture {alignment.symmetry.graph.model}" if alignment.symmetry.graph.model else "that model"
    names = {"title": title, "file": file, "beside": Path(file).with_suffix(".safetensors").name}
    head = _HEAD.format(**names, model=model, remark=remark)
    shared = {n: t for n, t in tied.items() if t in moves}
    shared |= {n: tied.get(t, t) for n, t in (files or {}).items()}
    return head + "\n".join(_body(moves, shared)) + _TAIL


def _elements(alignment: Alignment) -> dict[Operand, Tensor]:
    """The tensors of the alignment, and the inverse transposes of its matrices."""
    found: dict[Operand, Tensor] = {}
    for i, step in enumerate(alignment.transform.steps):
        found |= {Operand("element", f"{i}.{n}"): t for n, t in step.dump()[1].items()}
        for space, e in step.element.elements.items() if isinstance(step, Act) else ():
            if e.dual is not None and e.inverse_transpose is None:
                name = f"{i}.{alignment.symmetry.spaces[space].name}.matrix"
                found[Operand("element", DUAL + name)] = e.dual
    return found


def _move(alignment: Alignment, wide: State, known: Mapping[Operand, Tensor], name: str) -> _Move | None:
    """What becomes of one tensor, None if nothing."""
    recorder = Recorder(known)
    with torch.no_grad(), recorder:
        found = alignment.transform.carried(wide)[name]
    end, statements = recorder.result(found)
    if end == Operand("state", name):
        return None
    read = dict.fromkeys(o for s in statements for o in s.reads if o.kind in ("state", "element"))
    own = Operand("state", name)
    states = [*([own] if own in read or not any(o.kind == "state" for o in read) else ())]
    states += [o for o in read if o.kind == "state" and o != own]
    parts = [o for o in read if o.kind == "element"]
    named = _named([*states, *parts])
    code = "\n".join([f"({', '.join(named.values())}):", *_lines(statements, end, named)])
    return _Move(code, tuple(o.name for o in states), tuple(o.name for o in parts), recorder.numbers)


def _named(operands: list[Operand]) -> dict[Operand, str]:
    """Names of arguments: the last words of those of tensors, numbered where they come again."""
    found: dict[Operand, str] = {}
    for o in operands:
        word = o.name.rpartition(".")[2]
        word = "dual" if o.name.startswith(DUAL) else word if word.isidentifier() else "tensor"
        count = sum(n.rstrip("0123456789").rstrip("_") == word for n in found.values())
        found[o] = f"{word}_{count + 1}" if count else word
    return found


def _lines(statements: tuple[Statement, ...], end: Operand, named: Mapping[Operand, str]) -> Iterator[str]:
    """Statements as lines; what is read once stands in the line that reads it, while that is short."""
    uses = Counter(o for s in statements for o in s.reads)
    inline = not any(s.writes for s in statements)
    called, count = dict(named), 0
    for s in statements:
        text = "".join(p if isinstance(p, str) else called.get(p, p.name) for p in s.text)
        once = len(s.makes) == 1 and uses[s.makes[0]] == 1 and s.makes[0] != end and not _is_several(s)
        if inline and once and len(text) < _SHORT:
            called[s.makes[0]] = f"({text})" if s.infix else text
            continue
        if s.makes == (end,) and inline:
            yield f"    return {text}"
            return
        for made in s.makes:
            called[made] = f"t{(count := count + 1)}"
        target = ", ".join(called[m] for m in s.makes)
        target = f"{target}," if len(s.makes) == 1 and _is_several(s) else target
        yield f"    {target} = {text}" if target else f"    {text}"
    yield f"    return {called[end]}"


def _is_several(statement: Statement) -> bool:
    """Whether a call gives a list of one tensor."""
    first = "".join(p for p in statement.text if isinstance(p, str))
    return first.startswith("torch.split(") or ".unbind(" in first or ".split(" in first


def _body(moves: Mapping[str, _Move], shared: Mapping[str, str]) -> Iterator[str]:
    functions: dict[str, list[str]] = {}
    for name, move in moves.items():
        functions.setdefault(move.code, []).append(name)
    number = {code: i for i, code in enumerate(functions, 1)}
    for code, names in functions.items():
        yield from ("", *(f"# {f.pattern}" for f in fold(names)), f"def move_{number[code]}{code}", "")
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
    elements = {f"{i}.{n}": t for i, s in enumerate(alignment.transform.steps) for n, t in s.dump()[1].items()}
    given = {n: t.detach() for n, t in state.items()}
    found, expected = space["transformed"](given, elements), alignment.apply(given)
    wrong = [n for n, t in expected.items() if not torch.equal(found[n], t)]
    if wrong:
        raise VerifyError(
            f"the code of {path.name} gives other bits than the alignment for {wrong[0]}",
            remedy="use `symgraph apply`, and report the model",
        )

"""The notebooks of `examples/notebooks`: run, and shown as pages of the site (a hook of mkdocs).

python docs/notebooks.py           run all of them and keep what they print and draw
python docs/notebooks.py NAME      run one

A notebook is JSON, and these need no kernel: cells of Python run one after the other in one namespace. Jupyter
runs the same files.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
# Pictures of a page are 700 pixels wide at most, and of few colours.
DPI, COLOURS = 80, 64
Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """A notebook as it stands in its file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, notebook: dict[str, Any]) -> None:
    """Writes a notebook as Jupyter does."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# -- running -----------------------------------------------------------------------------------------------------------


def run(notebook: dict[str, Any]) -> None:
    """Runs all cells in their order; each keeps what it prints, the value of its last line, and its figures."""
    import matplotlib

    matplotlib.use("Agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(code, 1):
        cell["execution_count"] = number
        cell["outputs"] = list(_outputs("".join(cell["source"]), number, namespace))


def _outputs(source: str, number: int, namespace: dict[str, Any]) -> Iterator[Cell]:
    from matplotlib import pyplot

    printed = io.StringIO()
    with redirect_stdout(printed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive")
        value = _value(source, f"cell {number}", namespace)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        data = {"image/png": base64.b64encode(_picture(figure)).decode()}
        yield {"data": data, "metadata": {}, "output_type": "display_data"}
    pyplot.close("all")
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def _picture(figure: Any) -> bytes:
    """A figure as a small PNG."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def _value(source: str, name: str, namespace: dict[str, Any]) -> Any:
    """What the last line gives, where it is an expression that does not end in a semicolon."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body and not source.rstrip().endswith(";") else None
    shown = ast.Expression(tree.body.pop().value) if isinstance(last, ast.Expr) else None  # type: ignore[attr-defined]
    exec(compile(tree, name, "exec"), namespace)
    return None if shown is None else eval(compile(shown, name, "eval"), namespace)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


# -- as pages ----------------------------------------------------------------------------------------------------------


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by the names that the text has for them."""
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in read(path)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell draws]({name})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    where = f"*This page is `examples/notebooks/{path.name}`, run by the tests.*"
    return "\n\n".join([parts[0], where, *parts[1:]]) + "\n", pictures


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook to the site."""
    from mkdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, pictures = page(path)
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def main(names: list[str]) -> None:
    """Runs the notebooks of these names."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or path.stem in names:
            notebook = read(path)
            run(notebook)
            write(path, notebook)
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a page says, before a browser has seen it: records, laws, links, drawings, words."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_zoo import case
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.groups.lattice import classes
from symgraph.inference.overlay import GRAPH, overlay
from symgraph.io.files import OutputError
from symgraph.io.pages import ASSETS, in_script, page
from symgraph.orbit.action import random_element
from symgraph.symmetry.account import account
from symgraph.symmetry.dimension import Family, dimension
from symgraph.symmetry.drawn import drawing, to_dot, to_graphml, to_mermaid
from symgraph.symmetry.glossary import entry, glossary, legend
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.links import home, link
from symgraph.symmetry.notation import law
from symgraph.symmetry.page_data import page_data
from symgraph.symmetry.repeated import FIRST_MARK, repeated
from symgraph.symmetry.serialise import to_networkx


@pytest.fixture(scope="module")
def llama() -> SymmetryGraph:
    return case("llama").symmetry


@pytest.fixture(scope="module")
def data(llama: SymmetryGraph) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(page_data(llama)))
    return found


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.special.bessel_j0(self.down(torch.special.bessel_j0(self.up(x))))
        return found


# -- records that stand for several ------------------------------------------------------------------------------------


NAME = st.lists(st.sampled_from(["h", "up", "0", "1", "2", "10", "w[1]"]), min_size=1, max_size=5).map(".".join)
VALUE = st.one_of(NAME, NAME.map("at {} (net.py:3)".format), st.integers(0, 3), st.lists(NAME, max_size=2))


@given(st.dictionaries(NAME, VALUE, max_size=12))
def test_records_are_given_back_to_the_letter(values: dict[str, Any]) -> None:
    records = [{"name": name, "said": said} for name, said in values.items()]
    found = [one.filled(row) for one in repeated(records) for row in one.rows]
    assert sorted(found, key=lambda r: r["name"]) == sorted(records, key=lambda r: r["name"])


def test_layers_are_one_record_and_what_differs_stays_apart() -> None:
    alike = [{"name": f"h.{i}.up", "said": [f"h.{i}.w (net.py:{7})", i // 9]} for i in range(4)]
    (one,) = repeated(alike)
    assert (one.name, one.rows) == ("h.{0..3}.up", ((0,), (1,), (2,), (3,)))
    assert one.record["said"][0] == f"h.{chr(FIRST_MARK)}.w (net.py:7)"
    onward = [{"name": f"h.{i}.up", "said": f"h.{i + 1}.up"} for i in range(3)]
    assert len(repeated(onward)) == 3


@pytest.mark.parametrize("name", ["h.01.up", f"h.0.{chr(FIRST_MARK)}"])
def test_names_that_marks_would_change_are_left(name: str) -> None:
    records = [{"name": name}, {"name": name.replace("0", "2", 1)}]
    assert [one.filled(row) for one in repeated(records) for row in one.rows] == records


# -- laws ----------------------------------------------------------------------------------------------------------


def _maps(symmetry: SymmetryGraph, element: Any, name: str) -> dict[str, Tensor]:
    """The matrix of every letter of a law, and the diagonal of every scale."""
    found: dict[str, Tensor] = {}
    for letter in law(symmetry, name).letters:
        space = symmetry.space(letter.space)
        one = element.elements[space.id]
        eye = torch.eye(space.size, dtype=torch.float64)
        found[letter.letter] = eye[one.index] if one.index is not None else one.matrix
        for word, rows in (("s", one.scale), ("e", one.sign)):
            for number, row in enumerate(rows if rows is not None else ()):
                found[f"{word}{number + 1 if number else ''}_{letter.letter}"] = row
                found[f"{word}{number + 1 if number else ''}"] = row
    return found


def _by_the_law(formula: str, tensor: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """What the right side of a law is, for one tensor of at most two axes and no products inside of an axis."""
    found = None
    for word in re.findall(r"diag\([^)]*\)|\S+", formula.partition(" -> ")[2]):
        if word in ("W", "v"):
            factor = tensor
        elif word.startswith("diag("):
            powers = [part.partition("^") for part in word[5:-1].split()]
            rows = [maps[letter] ** float(power or 1) for letter, _, power in powers]
            factor = torch.diag(torch.stack(rows).prod(0))
        else:
            letter, _, power = word.partition("^")
            turned = {
                "": lambda m: m,
                "T": lambda m: m.T,
                "-1": torch.linalg.inv,
                "-T": lambda m: torch.linalg.inv(m).T,
            }
            factor = turned[power](maps[letter])
        found = factor if found is None else found @ factor
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["mlp-relu", "mlp-tanh", "llama", "bert", "gpt2-tied"])
def test_laws_are_what_elements_do(name: str) -> None:
    it = case(name)
    state, symmetry = it.state(), it.symmetry
    element = random_element(symmetry, generator=torch.Generator().manual_seed(3))
    moved = element(state)
    tried = 0
    for parameter in symmetry.graph.parameters:
        formula = law(symmetry, parameter).formula
        if parameter in symmetry.gain_sites or "⊗" in formula:
            continue
        found = _by_the_law(formula, state[parameter], _maps(symmetry, element, parameter))
        torch.testing.assert_close(found, moved[parameter], rtol=1e-9, atol=1e-12)
        tried += 1
    assert tried >= 4


def test_a_product_moves_blocks_and_then_maps_each_by_its_own() -> None:
    it = case("vit")
    state, symmetry, name = it.state(), it.symmetry, "vit.layers.0.attention.q_proj.bias"
    element = random_element(symmetry, generator=torch.Generator().manual_seed(3))
    assert law(symmetry, name).formula == "v -> (P ⊗ G_p) v"
    heads, inside = (element.elements[symmetry.space(one.space).id] for one in law(symmetry, name).letters)
    assert heads.index is not None and inside.matrix is not None
    moves = torch.kron(torch.eye(3, dtype=torch.float64)[heads.index], torch.eye(4, dtype=torch.float64))
    before = (moves @ state[name]).reshape(3, 4, 1)
    expected = (inside.matrix @ before).flatten()
    torch.testing.assert_close(element(state)[name], expected, rtol=1e-9, atol=1e-12)


def test_branches_change_places_before_each_is_mapped() -> None:
    nets = Path(__file__).resolve().parents[1] / "golden" / "golden_nets.py"
    symmetry = symgraph.infer(f"{nets}:experts")
    assert law(symmetry, "experts.0.0.weight").formula == "W_p -> diag(s_p) Q_p W_P(p)"
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(v.shape, generator=generator).double() for n, v in symmetry.graph.state.items()}
    element = random_element(symmetry, generator=generator)
    outer, inner = (element.elements[symmetry.space(name).id] for name in ("branches", "experts.hidden"))
    assert outer.index is not None and inner.index is not None and inner.scale is not None
    moved, eye = element(weights), torch.eye(4, dtype=torch.float64)
    for p in range(3):
        expected = inner.scale[0, p].diag() @ eye[inner.index[p]] @ weights[f"experts.{outer.index[p]}.0.weight"]
        torch.testing.assert_close(moved[f"experts.{p}.0.weight"], expected, rtol=1e-9, atol=1e-12)


def test_laws_of_products_gains_and_kernels(llama: SymmetryGraph) -> None:
    attention = "model.layers.0.self_attn"
    assert law(llama, f"{attention}.q_proj.weight").formula == "W -> (P ⊗ Q_p ⊗ R_p) W O^T"
    assert law(llama, f"{attention}.k_proj.weight").formula == "W -> (P ⊗ R_p^-T) W O^T"
    assert law(llama, f"{attention}.o_proj.weight").formula == "W -> O W (P^T ⊗ Q_p^T ⊗ G_p^-1)"
    said = law(llama, f"{attention}.q_proj.weight")
    heads = "layers.0.self_attn.head-groups"
    assert said.letters[2].group == "rotary" and said.letters[2].over == (heads,)
    assert any("input_layernorm.weight is one" in remark for remark in said.remarks)
    gain = law(llama, "model.norm.weight")
    assert gain.formula == "v -> t v" and "read from it are divided" in gain.remarks[0]
    resnet = case("resnet").symmetry
    kernel = law(resnet, "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight").formula
    assert re.fullmatch(r"W\[:, :, i, j\] -> diag\(.*\) P W\[:, :, i, j\] Q\^T diag\(.*\)", kernel)


def test_the_law_of_a_fused_projection_is_a_sum() -> None:
    fused = law(case("gpt2-tied").symmetry, "transformer.h.0.attn.c_attn.weight").formula
    assert fused == "W -> P W ((Q^T ⊗ G_q^T) ⊕ (Q^T ⊗ G_q^-1) ⊕ (Q^T ⊗ H_q^T))"


# -- links ---------------------------------------------------------------------------------------------------------


def test_links_lead_from_what_is_read_to_what_is_written(llama: SymmetryGraph) -> None:
    up, down = (link(llama, f"model.layers.0.mlp.{name}_proj.weight") for name in ("up", "down"))
    assert (up.source, up.target, up.directed) == (("residual",), ("layers.0.mlp.hidden",), True)
    assert (down.source, down.target, down.directed) == (("layers.0.mlp.hidden",), ("residual",), True)
    assert link(llama, "model.norm.weight").source == ("residual",)
    embedding = link(llama, "model.embed_tokens.weight")
    assert embedding.source == ("model.embed_tokens.weight[0]",) and embedding.target == ("residual",)
    stem = link(case("resnet").symmetry, "resnet.embedder.embedder.convolution.weight")
    assert stem.source == ("resnet.embedder.embedder.convolution.weight[1]",), "the channels, not a side of the kernel"


class Experts(nn.Module):
    """Four experts in one tensor each, of which a router picks by its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 8)), nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(torch.einsum("bi,eih->beh", x, self.up))
        return torch.einsum("be,beh,eho->bo", torch.softmax(self.gate(x), -1), inside, self.down)


def test_a_link_leads_to_the_inside_of_experts_and_not_to_their_number() -> None:
    graph = symgraph.infer(Experts(), torch.randn(5, 6))
    (inside,) = (space for space in graph if space.fibre)
    found = link(graph, "up")
    assert inside.name in (*found.source, *found.target)
    assert graph.spaces[inside.fibre[0]].name not in (*found.source, *found.target)


def test_spaces_are_at_home_in_the_module_of_their_parameters(llama: SymmetryGraph) -> None:
    homes = {space.name: home(llama, space) for space in llama.spaces}
    assert homes["residual"] == "" and homes["layers.1.mlp.hidden"] == "model.layers.1.mlp"


# -- the page ------------------------------------------------------------------------------------------------------


def test_layers_that_are_alike_are_said_once(data: dict[str, Any], llama: SymmetryGraph) -> None:
    assert sum(len(one["rows"]) for one in data["spaces"]) == len(llama.spaces)
    assert sum(len(one["rows"]) for one in data["parameters"]) == len(llama.terms)
    names = [one["name"] for one in data["spaces"] if one["record"]["kind"] != "rigid"]
    assert names[0] == "residual" and "layers.{0..1}.mlp.hidden" in names
    assert len(names) == len([line for line in str(llama).splitlines() if re.match(r"(residual|layers)", line)])


def test_a_space_says_what_explain_says(data: dict[str, Any], llama: SymmetryGraph) -> None:
    (found,) = (one["record"] for one in data["spaces"] if one["name"] == "residual")
    text = " ".join(llama.explain("residual").split())
    said = account(llama, llama.space("residual"), dimension(llama))
    assert found["meaning"] in text and found["formula"] in text and found["dimension"] == said.dimension
    for step in found["evidence"]:
        assert step["where"] in text and step["because"] in text and f"rule {step['rule']}" in text
    assert all(line in text for line in found["larger"])
    rigid = next(one["record"] for one in data["spaces"] if one["record"]["kind"] == "rigid")
    assert rigid["evidence"], "it says what made it so"


def test_a_parameter_lists_its_families() -> None:
    found = page_data(case("gpt2-untied").symmetry)
    every = {member["family"] for one in found["parameters"] for member in one["record"]["families"]}
    assert {str(Family.GAIN), str(Family.MOVE)} <= every
    named = {member["family"] for member in (one["record"] for one in found["families"])}
    assert every == named


def test_a_model_without_symmetries_says_so_and_why() -> None:
    found = page_data(symgraph.infer(Odd(), torch.randn(2, 4)))
    assert found["nothing"]["text"] == "no space admits more than the identity"
    assert any("bessel" in cause["because"] for cause in found["nothing"]["causes"])
    assert any("to do" in line for line in found["uncovered"])


def test_nothing_in_the_data_ends_the_script() -> None:
    bad = {"name": "</script><!-- <script>\u2028", "slot": "@view@"}
    assert "<" not in in_script(bad) and json.loads(in_script(bad)) == bad
    text = page("<b>", bad, "symmetry")
    assert "<title>&lt;b&gt;</title>" in text and '"slot":"@view@"' in text


def test_a_page_asks_no_network_and_carries_licences(llama: SymmetryGraph) -> None:
    text = llama.to_html()
    assert "default-src 'none'" in text and not re.search(r"(src|href)=\"(?!data:)", text)
    (imports,) = re.findall(r'<script type="importmap">(.*?)</script>', text)
    modules = json.loads(imports)["imports"]
    assert {"assets/symmetry.js", "assets/table.js", "assets/vendor/cytoscape.min.mjs"} <= modules.keys()
    assert all(address.startswith("data:text/javascript;base64,") for address in modules.values())
    assert "Cytoscape Consortium" in text and "Permission is hereby granted" in text
    assert len(text) < 1_000_000


def test_libraries_are_those_that_their_list_says() -> None:
    vendor = ASSETS / "vendor"
    rows = re.findall(r"^\| `(\S+)` \| `([\w-]+)`.*\| ([\d.]+) \|", (vendor / "README.md").read_text(), re.MULTILINE)
    assert {file for file, _, _ in rows} == {path.name for path in vendor.glob("*.mjs")}
    for file, package, version in rows:
        text = (vendor / file).read_text(encoding="utf-8")
        assert (
            package.replace("-", "").lower() in text.replace("-", "").lower()
            and (vendor / f"{package}.LICENSE").exists()
        )
        assert "sourceMappingURL" not in text
        assert package != "cytoscape" or f'version="{version}"' in text


def test_the_page_of_a_graph_read_from_json_is_the_same(llama: SymmetryGraph) -> None:
    assert SymmetryGraph.from_json(llama.to_json()).to_html() == llama.to_html()


def test_a_page_is_written_whole_and_replaces_nothing(llama: SymmetryGraph, tmp_path: Path) -> None:
    path = llama.save_html(tmp_path / "a" / "page.html")
    assert path.read_text(encoding="utf-8") == llama.to_html()
    with pytest.raises(OutputError, match="exists already"):
        llama.save_html(path)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_a_notebook_gets_a_table(llama: SymmetryGraph) -> None:
    text = llama._repr_html_()
    ElementTree.fromstring(f"<div>{text}</div>")
    assert "layers.{0..1}.mlp.hidden" in text and "any rotation or reflection" in text


# -- other tools ---------------------------------------------------------------------------------------------------


def test_drawings_hold_every_active_space_and_link(llama: SymmetryGraph) -> None:
    found = drawing(llama)
    assert {"residual", "layers.{0..1}.mlp.hidden"} <= {node.name for node in found.nodes}
    assert next(node.count for node in found.nodes if node.name == "layers.{0..1}.mlp.hidden") == 2
    labels = " ".join(edge.label for edge in found.edges)
    assert all(name in labels for name in ("q_proj", "down_proj", "lm_head", "embed_tokens"))
    apart = drawing(llama, folded=False)
    assert len([node for node in apart.nodes if node.kind != "rigid"]) == len(llama.active)


def test_dot_and_mermaid_name_what_they_link(llama: SymmetryGraph) -> None:
    dot, chart = to_dot(llama), to_mermaid(llama)
    nodes = set(re.findall(r'^ *("[^"]+") \[label', dot, re.MULTILINE))
    ends = {end for pair in re.findall(r'^ *("[^"]+") -> ("[^"]+")', dot, re.MULTILINE) for end in pair}
    assert ends <= nodes and dot.count("{") == dot.count("}")
    assert chart.startswith("flowchart LR") and chart.count("subgraph ") == len(
        re.findall(r"^ *end$", chart, re.MULTILINE)
    )
    drawn = set(re.findall(r"^ *(s\d+)\W", chart, re.MULTILINE))
    assert {end for pair in re.findall(r"^  (s\d+) -.*> (s\d+)$", chart, re.MULTILINE) for end in pair} <= drawn


def test_graphml_is_read_back(llama: SymmetryGraph) -> None:
    import networkx

    found = networkx.parse_graphml(to_graphml(llama))
    wanted = to_networkx(llama)
    assert set(found.nodes) == set(wanted.nodes) and found.number_of_edges() == wanted.number_of_edges()


def test_the_overlay_of_a_program_names_its_nodes() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    program = torch.export.export(net, (torch.randn(5, 6),))
    found = json.loads(overlay(symgraph.infer(program), program))[GRAPH]["results"]
    names = {node.name for node in program.graph.nodes}
    assert set(found) <= names and {"linear", "relu", "linear_1"} <= set(found)
    assert found["relu"]["value"] == "positive monomial" and found["linear_1"]["value"] == "identity"


def test_the_overlay_of_any_other_model_is_its_graph(llama: SymmetryGraph) -> None:
    (graph,) = json.loads(overlay(llama))["graphs"]
    ids = {node["id"] for node in graph["nodes"]}
    assert len(ids) == len(llama.graph.nodes)
    assert all(edge["sourceNodeId"] in ids for node in graph["nodes"] for edge in node["incomingEdges"])
    down = next(node for node in graph["nodes"] if node["label"] == "model.layers.0.mlp.down_proj.weight")
    assert down["namespace"] == "model/layers/0/mlp/down_proj"
    assert {"key": "class", "value": "orthogonal"} in down["attrs"]


# -- words ---------------------------------------------------------------------------------------------------------


def test_every_class_and_every_family_has_its_words() -> None:
    terms = {one.term for one in glossary()}
    assert {str(name) for name in classes()} <= terms
    assert {str(family) for family in Family if family is not Family.SPACE} <= terms


def test_the_glossary_leads_nowhere_else() -> None:
    words = [word for one in glossary() for word in (one.term, *one.also)]
    assert len(words) == len(set(words))
    assert {word for one in glossary() for word in one.see} <= set(words)


def test_terms_are_found_by_any_of_their_words() -> None:
    assert entry("Fibred  over") is entry("fibre") and entry("GL(n)").term == "invertible"
    with pytest.raises(UsageError, match="did you mean orthogonal"):
        entry("orthogonale")
    with pytest.raises(UsageError, match="lists every term"):
        entry("zzzz")


def test_the_legend_has_what_the_table_speaks_of(llama: SymmetryGraph) -> None:
    terms = {one.term for one in legend(llama, dimension(llama))}
    assert {"space", "fibre", "rotary", "monomial", "absorbed gain"} <= terms
    assert not {"signed permutation", "stored statistics"} & terms

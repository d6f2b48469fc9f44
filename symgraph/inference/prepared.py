"""A graph on its way into inference, and the passes that rewrite it until every call has one rule or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from symgraph.inference.bias_exponents import with_biases_behind_exponentials
from symgraph.inference.closed_positions import without_needless_masks
from symgraph.inference.measured_entrywise import with_entrywise
from symgraph.inference.measured_lengths import with_lengths
from symgraph.inference.measured_linear import with_linear_regions
from symgraph.inference.measured_norms import with_norms
from symgraph.inference.measured_softmax import with_attention
from symgraph.inference.multiples import with_multiples, with_numbers
from symgraph.inference.offset_numbers import with_offsets
from symgraph.inference.positive_gains import with_positive_gains
from symgraph.inference.relays import Relays, find_relays
from symgraph.inference.unjoined import with_parts_apart
from symgraph.ir import Graph, Kind
from symgraph.rules.book import RuleBook
from symgraph.rules.rewrite import rewrite
from symgraph.symmetry.forms import Form
from symgraph.symmetry.offsets import Offset
from symgraph.tracing.decompose import expand
from symgraph.tracing.joins import with_joins_last, with_turns_joined
from symgraph.tracing.normalize import without_dead_calls, without_identities
from symgraph.tracing.sums_apart import with_sums_apart
from symgraph.tracing.unstack import without_stacks
from symgraph.tracing.window_maps import with_window_maps
from symgraph.tracing.written_out import with_biases_in_parts
from symgraph.tracing.zeros import with_own_zeros

# A permutation of so many nodes. Rewriting leaves a number of them that nobody knows before.
Order = Callable[[int], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The graph as it was `traced`, what has become of it, and the rules that it is read by.

    `order` permutes the equations of its nodes, for the test that the order of rules cannot matter; None is theirs.
    `relays` say where constants come out of several products as they went in. `forms` are those in which parameters of
    `traced` are read by it, `offsets` what is added to parameters of the graph.
    """

    traced: Graph
    book: RuleBook
    graph: Graph
    order: Order | None = None
    relays: Relays = field(default_factory=dict)
    forms: tuple[Form, ...] = ()
    offsets: Mapping[str, Offset] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.graph)


def unstack(given: Prepared) -> Prepared:
    """Parts of a stack are picked before the reshape that told them apart, and flattened before they are joined.

    What adds a bias that is made of pieces does so piece by piece, and so is done what is picked apart again. Masks
    that nothing needs are left out.
    """
    graph = without_needless_masks(given.graph, given.book)
    parted = with_biases_in_parts(graph)
    plain = graph if parted is graph else without_dead_calls(parted)
    return replace(given, graph=with_joins_last(without_stacks(with_parts_apart(plain, given.book))))


def take_offsets(given: Prepared) -> Prepared:
    """Numbers that are added to a parameter or multiply it, and positive functions of it, are as if a part of it."""
    behind = with_biases_behind_exponentials(given.graph, given.book)
    plain, positive = with_positive_gains(behind, given.book)
    as_read, multiples = with_multiples(plain, given.book)
    graph, numbers = with_offsets(as_read, given.book)
    return replace(given, graph=graph, offsets={**positive, **with_numbers(multiples, numbers)})


def measure_regions(given: Prepared) -> Prepared:
    """What a region computes is measured, however it is written: attention, turned pairs, norms, lengths, entries."""
    attentive, relays = with_attention(given.graph, given.book), find_relays(given.graph)
    turned = with_linear_regions(attentive, given.book)
    return replace(given, graph=with_entrywise(with_lengths(with_norms(turned))), relays=relays)


def take_turns(given: Prepared) -> Prepared:
    """Parts that take turns along an axis are picked before the reshape that told them apart, and join after it."""
    return replace(given, graph=with_turns_joined(without_stacks(given.graph, turns=True)))


def take_sums_apart(given: Prepared) -> Prepared:
    """Sums of squares stand alone, without the terms that are summed with them."""
    return replace(given, graph=with_sums_apart(given.graph))


def find_idioms(given: Prepared) -> Prepared:
    """What a pattern rule describes becomes one call: `x * rsqrt(mean(x ** 2) + eps)` is `pattern:rms-norm`."""
    return replace(given, graph=rewrite(given.graph, given.book.patterns))


def decompose_uncovered(given: Prepared) -> Prepared:
    """Calls that no rule covers are taken apart where rules cover all parts, which may hold idioms of their own."""
    expanded = expand(given.graph, given.book.covers)
    if expanded is given.graph:
        return given
    plain = without_dead_calls(without_identities(without_stacks(expanded)))
    return find_idioms(replace(given, graph=plain))


def part_zeros(given: Prepared) -> Prepared:
    """Values that begin with the same zeros have zeros of their own, and what stands between zeros is padded."""
    return replace(given, graph=with_own_zeros(given.graph))


def cut_joined(given: Prepared) -> Prepared:
    """Calls whose rule names axes that their tensors hold flattened stand between views that cut and join these.

    Convolutions without padding are linear maps of windows.
    """
    graph, book = with_window_maps(given.graph), given.book
    parts = ((node, book.split(node, graph) if node.kind is Kind.CALL else None) for node in graph.nodes)
    return replace(given, graph=replace(graph, nodes=tuple(n for node, cut in parts for n in cut or (node,))))

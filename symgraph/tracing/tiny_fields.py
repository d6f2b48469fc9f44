"""What a field of a config means, by its name, and how small it may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a tiny model, distinct where a mix-up would hide an error."""

    width: int = 32
    heads: int = 4
    groups: int = 2
    feed_forward: int = 48
    vocabulary: int = 99
    positions: int = 64
    image: int = 32
    patch: int = 8
    experts: int = 4
    rank: int = 16
    state: int = 8
    window: int = 4
    stages: bool = True
    cut: bool = True
    proportional: bool = False
    fill: bool = False
    images_only: bool = False

    @property
    def head(self) -> int:
        """The size of a head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True)
class Context:
    """What a field is judged by: the sizes wanted, the config's own defaults, and the layers that are kept."""

    sizes: Sizes
    defaults: Mapping[str, Any]
    kept: tuple[int, ...] = (0, 1)
    depth: int = 0
    tokens: list[int] = field(default_factory=list)

    def default(self, *names: str) -> int | None:
        """The first of several settings that is a positive number."""
        values: list[Any] = [self.defaults.get(name) for name in names]
        return next((int(value) for value in values if _is_number(value) and value > 0), None)

    @property
    def width(self) -> int | None:
        """The width of the model at its default size."""
        return self.default(*WIDTHS)

    @property
    def heads(self) -> int | None:
        """The number of heads at the default size."""
        return self.default(*HEADS)


Shrink = Callable[[Any, Context], Any]
WIDTHS = ("hidden_size", "d_model", "n_embd", "emb_dim", "embed_dim", "embedding_dim", "model_dim", "dim", "hidden_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "attention_heads")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _multiple(value: float, of: int = 8) -> int:
    return max(of, round(value / of) * of)


def keep(value: Any, context: Context) -> Any:
    """As it is."""
    return value


def _proportional(value: Any, context: Context) -> int:
    return (
        min(_multiple(context.sizes.width * value / context.width), 4 * context.sizes.width)
        if context.width
        else min(value, context.sizes.width)
    )


def width(value: Any, context: Context) -> Any:
    """A width stays in its ratio to the model's."""
    return _proportional(value, context) if value > 0 else value


def feed_forward(value: Any, context: Context) -> Any:
    """The inside of an MLP, in its ratio only where that is asked for."""
    if context.sizes.proportional or value == context.width:
        return width(value, context)
    return context.sizes.feed_forward if value > 0 else value


def heads(value: Any, context: Context) -> Any:
    """The number of heads."""
    return context.sizes.heads if value > 1 else value


def groups(value: Any, context: Context) -> Any:
    """The number of key-value heads: all, one, or some."""
    if value <= 1:
        return value
    return context.sizes.heads if value == context.heads else context.sizes.groups


def head_dim(value: Any, context: Context) -> Any:
    """The width of a head, twice as wide where the heads together are wider than the model."""
    usual = context.sizes.head
    if value <= 0 or not (context.width and context.heads):
        return usual if value > 0 else value
    return usual * (2 if value * context.heads > context.width else 1)


def beside_rotary(value: Any, context: Context) -> Any:
    """The part of a head that is not rotated, in its ratio to the part that is."""
    return context.sizes.state * max(1, round(value / (context.default("qk_rope_head_dim") or value)))


def rotated_share(value: Any, context: Context) -> Any:
    """The share of a head that is rotated, so that a pair of coordinates is."""
    return max(value, min(1.0, 2 * context.sizes.heads / context.sizes.width)) if value > 0 else value


def layers(value: Any, context: Context) -> Any:
    """The number of layers."""
    return len(context.kept) if value > len(context.kept) else value


def at_most(limit: int) -> Shrink:
    """Not more than a number."""
    return lambda value, context: min(value, limit)


def to(name: str) -> Shrink:
    """One of the sizes."""
    return lambda value, context: min(value, getattr(context.sizes, name)) if value > 0 else value


def token(value: Any, context: Context) -> Any:
    """A special token, from the end of the vocabulary, where example inputs seldom reach."""
    if not isinstance(value, int) or value < 0:
        return value
    if value not in context.tokens:
        context.tokens.append(value)
    return context.sizes.vocabulary - 1 - context.tokens.index(value) if value >= context.sizes.vocabulary else value


def widths(value: Sequence[int], context: Context) -> Any:
    """Widths of stages, in their ratios."""
    least = min(size for size in value if size > 0)
    return [size and _multiple(16 * size / least) for size in value]


def eighths(value: Sequence[int], context: Context) -> Any:
    """Widths that other lists repeat, all by one factor."""
    return [size if size <= 4 else max(2, size // 8) for size in value]


def stage_heads(value: Sequence[int], context: Context) -> Any:
    """Heads of stages, in their ratios."""
    least = min(size for size in value if size > 0)
    return [max(1, round(2 * size / least)) for size in value] if least > 2 else value


def depths(value: Sequence[int], context: Context) -> Any:
    """At most two blocks in each stage."""
    return [min(size, 2) for size in value]


def layer_ids(value: Sequence[int], context: Context) -> Any:
    """Those of the layers that are kept, under their new numbers."""
    return [context.kept.index(size) for size in value if size in context.kept]


def period(value: Any, context: Context) -> Any:
    """Every second layer is special where every n-th was."""
    return min(value, 2)


def sections(value: Sequence[int], context: Context) -> Any:
    """Parts of the rotary frequencies, as many as half a head has."""
    total = max(context.sizes.head // 2, len(value))
    rest = [max(1, total * section // (sum(value) or 1)) for section in value[1:]]
    return [total - sum(rest), *rest]


def factors(value: Sequence[float], context: Context) -> Any:
    """A factor for each rotary frequency."""
    return list(value)[: context.sizes.head // 2]


NUMBERS: tuple[tuple[str, Shrink], ...] = (
    (r"partial_rotary_factor|rotary_pct|rotary_emb_fraction|rotary_percentage", rotated_share),
    (r"type_vocab_size|.*_ratio|.*factor|.*_eps|.*theta|.*kernel.*|.*stride.*|.*dilation.*|.*_scale|seed", keep),
    (r"(.*_)?num_channels|in_channels|in_chans|audio_channels|channels|num_labels|n_langs|down_.*|pool_size", keep),
    (r".*dropout.*|.*drop_path.*|.*layerdrop|.*_pdrop|.*drop_rate|.*jitter.*", lambda value, context: type(value)(0)),
    (r".*vocab(ulary)?(_size)?(_per_layer_input|_base)?|.*num_embeddings", to("vocabulary")),
    (r"(.*_)?(token|pad|bos|eos)_(id|index)|(pad|bos|eos|unk|mask)_index|vocab_offset", token),
    (r"(.*_)?(qk_)?rope_head_dim", to("state")),
    (r"qk_nope_head_dim", beside_rotary),
    (
        r"qk_head_dim",
        lambda value, context: context.sizes.state + beside_rotary(context.default("qk_nope_head_dim"), context),
    ),
    (r"v_head_dim", to("state")),
    (r".*lora_rank|.*_rank|.*_lowrank", to("rank")),
    (r"num_(routed_|local_)?experts|n_routed_experts|moe_num_experts|zero_expert_num", to("experts")),
    (r"(moe_)?num_experts_per_tok(en)?|moe_topk?|moe_top_k|moe_k|top_k_experts|num_selected_experts", at_most(2)),
    (r"topk_group|n_shared_experts|(moe_)?num_shared_experts", at_most(1)),
    (r"n_group|num_expert_groups?", at_most(2)),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|num_nextn_predict_layers", at_most(1)),
    (r".*(sparse_step|_period|_interval|_frequency|_every|sliding_window_pattern|_layer_step)", period),
    (r"attn_layer_offset|expert_layer_offset", at_most(1)),
    (r"num_kv_shared_layers", at_most(0)),
    (
        r"(swa_|encoder_|decoder_|index_)?num_key_value_heads|num_kv_heads|num_query_groups|multi_query_group_num",
        groups,
    ),
    (r"linear_num_key_heads|linear_num_value_heads|.*(attention_|_|^)(num_|n_)?heads|n_head|heads", heads),
    (r"(.*_)?head_dim|d_kv|d_head|dim_head|attention_head_size|kv_channels|linear_(key|value)_head_dim", head_dim),
    (r"rotary_dim", to("state")),
    (r"(.*_)?num_(hidden_|encoder_|decoder_)?layers|n_layers?|(encoder|decoder|.*_encoder|.*_decoder)_layers", layers),
    (r"num_hidden_groups|max_window_layers|depth|num_layers_per_stack|layers|num_blocks", layers),
    (
        r".*intermediate_size.*|.*ffn_dim|d_ff|n_inner|d_inner|dim_ff|dff|ffn_hidden_size|feed_forward_size",
        feed_forward,
    ),
    (r".*ffn_hidden_size|mlp_dim", feed_forward),
    (
        r".*position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?|.*source_positions|.*target_positions",
        to("positions"),
    ),
    (r"model_max_length|context_length|max_length", to("positions")),
    (r"image_size|img_size|crop_size|input_resolution", to("image")),
    (r"patch_size", to("patch")),
    # The window on both sides together: half of it has to reach further than a token itself.
    (r"local_attention", lambda value, context: min(value, 2 * context.sizes.window)),
    (r"(sliding_window|.*window_size|attention_window|.*attn_chunk_length)(_size)?", to("window")),
    (r"(mamba_|lsh_|local_|attention_)?chunk_size|block_size|index_block_size", to("window")),
    (r"index_topk(_blocks)?|index_topk_.*", at_most(4)),
    (r"(mamba_|ssm_)?(d_)?state(_size)?|mamba_d_state|mamba_dt_rank|time_step_rank", to("state")),
    (r"(.*_)?n_groups|mamba_ngroups", at_most(2)),
    (r"num_latents", at_most(8)),
    (r"num_self_attends_per_block", at_most(2)),
    (r"hidden_size_per_layer_input|ple_.*dim", to("rank")),
    (r".*(_size|_dim|_width|_channels|_dims|_features)|hidden|dim|d_model|d_latents|n_embd", width),
)
LISTS: tuple[tuple[str, Shrink], ...] = (
    (r".*(token|pad|bos|eos)_(id|index)|.*_tokens", lambda value, context: [token(item, context) for item in value]),
    (r"mrope_section", sections),
    (r"(long|short)_factor", factors),
    (r".*drop.*", lambda value, context: [type(item)(0) for item in value]),
    (r"depths?|num_blocks|.*_depths?|layers|stage_num.*|num_block_repeats", depths),
    (r".*(layers|layer_ids|_idxs|_indices|_indexes)", layer_ids),
    (r"stem_channels|stage_.*_channels", eighths),
    (r"num_(attention_)?heads|.*_heads", stage_heads),
    (r"hidden_sizes|dims|embed_dims?|conv_dim|tdnn_dim|.*hidden_sizes|.*_dims|.*_channels", widths),
    (r"image_size|img_size|crop_size", lambda value, context: [min(item, context.sizes.image) for item in value]),
    (r"patch_size", lambda value, context: [min(item, context.sizes.patch) for item in value]),
)


# What may be left to be said, where a class of model cannot do without it.
FILL: Mapping[str, Callable[[Context], Any]] = {
    "num_key_value_heads": lambda context: context.sizes.groups,
    "head_dim": lambda context: context.sizes.head,
    "num_experts_per_tok": lambda context: 2,
    "n_routed_experts": lambda context: context.sizes.experts,
    "n_shared_experts": lambda context: 1,
}
# Where nothing is said the inside of an MLP is four times the width: wider than all else in a tiny model.
_UNSAID = frozenset({"n_inner", "intermediate_size"})
IMAGES = r".*image_size|img_size|crop_size|.*drop.*|.*_rate"


def shrink_number(name: str, value: Any, context: Context) -> Any:
    """A number made small, by what its name says it counts."""
    if context.sizes.images_only and not re.fullmatch(IMAGES, name):
        return value
    rule = next((reducer for pattern, reducer in NUMBERS if re.fullmatch(pattern, name)), keep)
    return rule(value, context)


def fill(name: str, context: Context) -> Any:
    """A value for a setting that has none, where asked for; padding and the inside of an MLP are always known."""
    if name == "pad_token_id":
        return 0
    if name in _UNSAID and not context.sizes.proportional:
        return context.sizes.feed_forward
    return FILL[name](context) if context.sizes.fill and name in FILL else None


def shrink_list(name: str, value: Sequence[Any], context: Context) -> Any:
    """A list made short where it has an entry for each layer, and its entries small."""
    plain = list(value)
    if context.sizes.images_only and not re.fullmatch(IMAGES, name):
        return value
    if context.sizes.cut and context.depth > len(context.kept) and len(plain) == context.depth:
        plain = [plain[layer] for layer in context.kept]
        plain = [
            shrink_number(name.removesuffix("_per_layer"), number, context) if type(number) is int else number
            for number in plain
        ]
    elif plain and all(_is_number(number) for number in plain) and context.sizes.stages:
        rule = next((reducer for pattern, reducer in LISTS if re.fullmatch(pattern, name)), keep)
        plain = list(rule(plain, context))
    return plain if isinstance(value, list) else tuple(plain)

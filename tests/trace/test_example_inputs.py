"""Example inputs follow from the config and the names of the inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symgraph.errors import TraceError
from symgraph.tracing import example_inputs


class Text(nn.Module):
    main_input_name = "input_ids"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, input_ids: Tensor | None = None, decoder_input_ids: Tensor | None = None) -> None: ...


class Image(Text):
    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor | None = None) -> None: ...  # type: ignore[override]


class Both(Text):
    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None) -> None: ...


class Audio(Text):
    main_input_name = "input_values"

    def forward(self, input_values: Tensor) -> None: ...  # type: ignore[override]


class Spectrum(Text):
    main_input_name = "input_features"

    def forward(self, input_features: Tensor) -> None: ...  # type: ignore[override]


class Sound(Text):
    def forward(self, input_ids: Tensor | None = None, input_features: Tensor | None = None) -> None: ...


class Anything(Text):
    main_input_name = "inputs"

    def forward(self, inputs: Tensor | None = None, input_ids: Tensor | None = None) -> None: ...  # type: ignore[override]


class Patches(Image):
    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, spatial_shapes: Tensor | None = None
    ) -> None: ...


class Video(Text):
    main_input_name = "pixel_values_videos"

    def forward(self, pixel_values_videos: Tensor | None = None) -> None: ...  # type: ignore[override]


class Odd(Text):
    def forward(self, input_ids: Tensor, boxes: Tensor) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Text(vocab_size=9), {"input_ids": (2, 7)}),
        (Text(vocab_size=9, max_position_embeddings=4), {"input_ids": (2, 4)}),
        (Text(vocab_size=9, is_encoder_decoder=True), {"input_ids": (2, 7), "decoder_input_ids": (2, 5)}),
        (Text(text_config=SimpleNamespace(vocab_size=9)), {"input_ids": (2, 7)}),
        (Image(image_size=12, num_channels=1), {"pixel_values": (2, 1, 12, 12)}),
        (Image(image_size=[8, 16]), {"pixel_values": (2, 3, 8, 16)}),
        (Image(), {"pixel_values": (2, 3, 32, 32)}),
        (Image(patch_size=14), {"pixel_values": (2, 3, 224, 224)}),
        (
            Both(vocab_size=9, vision_config=SimpleNamespace(image_size=6)),
            {"input_ids": (2, 7), "pixel_values": (2, 3, 6, 6)},
        ),
        (Both(vocab_size=9, vision_config=SimpleNamespace(image_size=6), image_token_id=3), {"input_ids": (2, 7)}),
        (
            Sound(vocab_size=9, audio_config=SimpleNamespace(spec_size=8, num_mel_bins=4)),
            {"input_ids": (2, 7), "input_features": (2, 1, 16, 4)},
        ),
        (Anything(vocab_size=9), {"input_ids": (2, 7)}),
        (
            Patches(num_patches=6, patch_size=2, num_channels=3),
            {"pixel_values": (2, 6, 12), "pixel_attention_mask": (2, 6), "spatial_shapes": (2, 2)},
        ),
        (Image(image_size=8, num_frames=4), {"pixel_values": (2, 4, 3, 8, 8)}),
        (Image(image_size=8, in_channels=[16, 32]), {"pixel_values": (2, 3, 8, 8)}),
        (Video(image_size=8), {"pixel_values_videos": (2, 2, 3, 8, 8)}),
        (Spectrum(feature_projection_input_dim=6, num_mel_bins=80), {"input_features": (2, 112, 6)}),
        (Audio(conv_kernel=[10, 3], conv_stride=[5, 2]), {"input_values": (2, 80)}),
        (Audio(num_mel_bins=8, max_length=16), {"input_values": (2, 16, 8)}),
        (Spectrum(num_mel_bins=8, max_source_positions=10), {"input_features": (2, 8, 20)}),
    ],
)
def test_shapes(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    assert {k: tuple(v.shape) for k, v in example_inputs(model).items()} == shapes


def test_tokens_are_within_the_vocabulary_and_floats_have_the_models_dtype() -> None:
    assert int(example_inputs(Text(vocab_size=3))["input_ids"].max()) < 3
    assert example_inputs(Image())["pixel_values"].dtype == torch.float64
    assert torch.equal(example_inputs(Image())["pixel_values"], example_inputs(Image())["pixel_values"])


def test_an_input_that_the_config_does_not_describe() -> None:
    with pytest.raises(TraceError, match="needs the input `boxes`") as caught:
        example_inputs(Odd(vocab_size=9))
    assert "kwargs=" in caught.value.remedy


def test_masks_are_made_on_demand() -> None:
    class Masked(Text):
        def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None) -> None: ...

    assert set(example_inputs(Masked(vocab_size=9))) == {"input_ids"}
    found = example_inputs(Masked(vocab_size=9), masks=True)
    assert found["attention_mask"].tolist() == [[1] * 7] * 2
    assert set(example_inputs(Text(vocab_size=9), masks=True)) == {"input_ids"}


def test_patches_fill_the_grid_that_is_said_beside_them() -> None:
    found = example_inputs(Patches(num_patches=6, patch_size=2, num_channels=3))
    assert found["spatial_shapes"].tolist() == [[2, 3], [2, 3]]
    assert found["pixel_attention_mask"].all()

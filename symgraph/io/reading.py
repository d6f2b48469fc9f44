"""How data is read: options of the command line, of programs and of `symgraph.io.data.load`, each stated once."""

from __future__ import annotations

from dataclasses import dataclass

from symgraph.io.options import option


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Examples in a batch, columns to use instead of the usual ones, and how they become tensors.

    What is None follows from the checkpoint.
    """

    batch_size: int = option(32, "examples in a batch", least=1)
    image_column: str | None = option(None, "the column that holds the images", metavar="NAME")
    text_column: str | None = option(None, "the column that holds the texts", metavar="NAME")
    label_column: str | None = option(None, "the column that holds the labels", metavar="NAME")
    tokenizer: str | None = option(None, "a tokenizer, where the checkpoint brings none", metavar="PATH")
    block_size: int | None = option(None, "tokens in a window of text", least=2)
    mean: tuple[float, ...] | None = option(None, "mean of the pixels, for each channel", metavar="X")
    std: tuple[float, ...] | None = option(None, "standard deviation of the pixels", metavar="X")
    assume_normalised: bool = option(
        False, "where no mean and deviation are known, take pixels as they are, scaled to [0, 1]; the results say so"
    )

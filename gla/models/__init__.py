"""Sequence models behind one interface: `init`, `apply` over a sequence, `step` over one token."""

from gla.models.transformer import Cache, Transformer, TransformerConfig

__all__ = ["Cache", "Transformer", "TransformerConfig"]

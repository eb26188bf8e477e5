"""Pictures made elsewhere: what their names and metadata tell, and which control each has."""

from generation.foreign.metadata import facts_from_texts
from generation.foreign.names import checkpoint_name, parse_name
from generation.foreign.pairing import differences, find_pictures
from generation.foreign.picture import (
    Axis,
    Facts,
    LoraUse,
    Pair,
    Picture,
    PictureSet,
    Rejected,
)

__all__ = [
    "Axis",
    "Facts",
    "LoraUse",
    "Pair",
    "Picture",
    "PictureSet",
    "Rejected",
    "checkpoint_name",
    "differences",
    "facts_from_texts",
    "find_pictures",
    "parse_name",
]

"""Pictures made elsewhere: what their names and metadata tell, and which control each has."""

from generation.foreign.cases import differences
from generation.foreign.facts import facts_from_texts
from generation.foreign.names import checkpoint_name, parse_name
from generation.foreign.pairing import find_pictures
from generation.foreign.picture import (
    Axis,
    Facts,
    LoraUse,
    Pair,
    Picture,
    PictureSet,
    Rejected,
)
from generation.foreign.studies import join_checkpoints, split_studies, write_recommended_weight

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
    "join_checkpoints",
    "parse_name",
    "split_studies",
    "write_recommended_weight",
]

"""Pictures made elsewhere: what their names and metadata tell, and which control each has."""

from analysers.intake.cases import differences
from analysers.intake.pairing import find_pictures
from analysers.intake.studies import join_checkpoints, split_studies
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.names import parse_name
from generation.pictures.readers.picture import (
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
    "differences",
    "facts_from_texts",
    "find_pictures",
    "join_checkpoints",
    "parse_name",
    "split_studies",
]

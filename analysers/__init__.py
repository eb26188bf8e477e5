"""Measuring and deciding: metrics, statistics, ranking, the study, the commands and the calls.

    import analysers
    study = analysers.strength("my.safetensors", model="sdxl/", prompts=["a portrait of pstr"])
    study.recommended, study.table, study.report()

What is named here is loaded when it is first used.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysers.commands.calls import Result, epochs, load, pictures, strength
    from analysers.study import Candidate, Study
    from generation.errors import UserError

__all__ = [
    "Candidate",
    "Result",
    "Study",
    "UserError",
    "epochs",
    "load",
    "pictures",
    "strength",
]

_HOME = {
    **dict.fromkeys(("Result", "epochs", "load", "pictures", "strength"), "commands.calls"),
    **dict.fromkeys(("Candidate", "Study"), "study"),
}


def _refuse_foreign() -> None:
    """Raise ImportError where a package of another project hides one of ours."""
    ours = Path(__file__).resolve().parent.parent
    for name in ("generation", "reports", "sample_data"):
        try:
            spec = find_spec(name)
        except ValueError:  # put into sys.modules by hand
            spec = None
        places = (spec.origin, *(spec.submodule_search_locations or ())) if spec else ()
        found = next((place for place in places if place), "without a file")
        if Path(found).resolve() != ours / name / "__init__.py":
            raise ImportError(
                f"{name!r} is another package here ({found}), not that of lora-analysers: install "
                "lora-analysers in an environment of its own, or take that folder off sys.path "
                "(PYTHONPATH, or the directory you are in)."
            )


_refuse_foreign()


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "generation.errors" if name == "UserError" else f"{__name__}.{_HOME[name]}"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

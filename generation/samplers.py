"""Samplers by name: the one name that settings and content keys hold, and the names people use.

A name here is a method and, where it is not the plain one, a schedule of noise levels:
`dpmpp_2m_karras` is A1111's "DPM++ 2M Karras" and ComfyUI's `dpmpp_2m` with `karras`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SAMPLER_NAMES: Mapping[str, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "pndm": "PLMS",
    "unipc": "UniPC",
}
"""Our method names -> the names A1111 1.9 and later shows (without the schedule)."""

SCHEDULE_NAMES: Mapping[str, str] = {
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "beta": "Beta",
}

# Further spellings, without blanks, marks and capitals: A1111's and ComfyUI's long forms, kohya's,
# diffusers' classes, OneTrainer's.
_METHODS = {
    re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp")): key
    for key, shown in SAMPLER_NAMES.items()
    for name in (key, shown, "k_" + key)
} | {
    "eulerancestral": "euler_a",
    "eulerdiscretescheduler": "euler",
    "eulerancestraldiscretescheduler": "euler_a",
    "dpm2ancestral": "dpm2_a",
    "dpmpp2sancestral": "dpmpp_2s_a",
    "dpmpp": "dpmpp_2m",
    "dpmsolverpp": "dpmpp_2m",
    "dpmpp2msdegpu": "dpmpp_2m_sde",
    "dpmpp3msdegpu": "dpmpp_3m_sde",
    "dpmppsdegpu": "dpmpp_sde",
    "unipcbh2": "unipc",
    "ddimscheduler": "ddim",
}
_SCHEDULES = {key.replace("_", ""): key for key in SCHEDULE_NAMES} | dict.fromkeys(
    ("normal", "uniform", "automatic"), ""
)
# A1111's "Automatic" (sd_samplers_kdiffusion.py).
_AUTOMATIC = {
    **dict.fromkeys(("dpmpp_2m", "dpmpp_sde", "dpmpp_2s_a", "dpm2", "dpm2_a"), "karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde"), "exponential"),
}


def sampler_key(text: str) -> str | None:
    """The one name of a sampler however it is spelled, or None for one that nobody knows.

    Capitals, blanks, `_`, `-` and `+` do not count: "DPM++ 2M SDE Karras", `dpmpp_2m_sde+karras`
    and "dpm++ 2m sde, karras" are one. The schedules "normal" and "uniform" are the plain one, and
    "automatic" is what A1111 makes of the method.
    """
    plain = re.sub(r"[^a-z0-9]", "", text.casefold().replace("++", "pp"))
    if plain in _METHODS:
        return _METHODS[plain]
    for ending, schedule in _SCHEDULES.items():
        method = _METHODS.get(plain.removesuffix(ending))
        if method and plain.endswith(ending):
            schedule = _AUTOMATIC.get(method, "") if ending == "automatic" else schedule
            return f"{method}_{schedule}" if schedule else method
    return None


def a1111_sampler(sampler: str) -> tuple[str, str]:
    """A1111's (sampler, schedule type) of one of our sampler names; unknown names pass as given."""
    for suffix, schedule in SCHEDULE_NAMES.items():
        if sampler.endswith("_" + suffix):
            plain = sampler[: -len(suffix) - 1]
            return SAMPLER_NAMES.get(plain, plain), schedule
    # To A1111, "Automatic" means Karras for the DPM family; diffusers' plain spacing is "Uniform".
    schedule = "Uniform" if sampler.startswith("dpm") else "Automatic"
    return SAMPLER_NAMES.get(sampler, sampler), schedule


def shown_sampler(sampler: str) -> str:
    """One of our sampler names as people write it: "dpmpp_2m_karras" -> "DPM++ 2M Karras"."""
    method, schedule = a1111_sampler(sampler)
    return f"{method} {schedule}" if schedule in SCHEDULE_NAMES.values() else method

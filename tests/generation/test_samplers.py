"""One name for a sampler, whoever spells it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import UserError
from generation.samplers import SAMPLER_NAMES, sampler_key, shown_sampler


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("dpm++ 2m karras", "dpmpp_2m_karras"),
        ("dpmpp_2m+karras", "dpmpp_2m_karras"),
        ("dpmpp_2m, karras", "dpmpp_2m_karras"),
        ("k_dpmpp_2m_ka", None),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"),
        ("dpmpp_2m_sde_gpu karras", "dpmpp_2m_sde_karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde_exponential"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M Automatic", "dpmpp_2m_karras"),
        ("DPM++ 3M SDE automatic", "dpmpp_3m_sde_exponential"),
        ("Euler a automatic", "euler_a"),
        ("Euler a", "euler_a"),
        ("euler_ancestral", "euler_a"),
        ("k_euler_a", "euler_a"),
        ("Euler", "euler"),
        ("euler normal", "euler"),
        ("Euler Karras", "euler_karras"),
        ("UniPC", "unipc"),
        ("uni_pc_bh2", "unipc"),
        ("DDIM", "ddim"),
        ("PLMS", "pndm"),
        ("dpmsolver++", "dpmpp_2m"),
        ("dpm_2_a", "dpm2_a"),
        ("DPM2 a", "dpm2_a"),
        ("euler simple", None),
        ("DPM++ 2M SDE Heun", None),
        ("DPM adaptive", None),
        ("dpmsolver", None),
        ("", None),
    ],
)
def test_names_that_people_use(text: str, key: str | None) -> None:
    assert sampler_key(text) == key


@given(
    st.sampled_from(sorted(SAMPLER_NAMES)),
    st.sampled_from(["", "karras", "exponential"]),
    st.sampled_from(["_", " ", "+", "-", ", "]),
    st.booleans(),
)
def test_what_is_shown_and_any_spelling_of_it_read_back(method, schedule, mark, loud) -> None:
    key = f"{method}_{schedule}" if schedule else method
    assert sampler_key(key) == sampler_key(shown_sampler(key)) == key
    text = f"{method}{mark}{schedule}" if schedule else method
    assert sampler_key(text.upper() if loud else text.replace("_", mark)) == key


def test_every_scheduler_is_known_by_its_shown_name() -> None:
    pytest.importorskip("diffusers")
    from generation.renderers.diffusers.samplers import SAMPLERS, chosen

    for key in SAMPLERS:
        assert chosen(shown_sampler(key)) == key
    with pytest.raises(UserError, match="DPM fast is not available; known are Euler, "):
        chosen("DPM fast")
    with pytest.raises(UserError, match=r"DPM\+\+ 2S a is not available"):
        chosen("dpmpp_2s_ancestral")

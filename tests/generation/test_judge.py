"""The base model as judge: its error by hand, in every family, and nothing left changed."""

import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sample_data
from analysers.metrics.adherence import Adherence, AdherenceMargin, rivals
from analysers.metrics.metric import Sample
from analysers.metrics.references import (
    HeldOutLikeness,
    Pictures,
    ReferenceLikeness,
    alike,
    parts,
)
from analysers.metrics.ssim import ssim
from generation.cells import Case, Checkpoint
from generation.errors import UserError
from generation.loras.inspection import tensor_hash
from generation.renderers.diffusers import judge
from generation.renderers.diffusers.engine import Engine, find_model, usual
from generation.renderers.diffusers.models import BaseModel

PROMPTS = ("a red apple", "a cat", "a car", "a tree", "a house")


@pytest.fixture(scope="module")
def demo() -> Engine:
    model = find_model(str(sample_data.PATH / "model"))
    return Engine(model, width=128, height=128, steps=12, batch_size=4)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_the_denoiser_is_asked_as_the_pipeline_asks_it(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    """What a render's first call to the denoiser gave, and the error of that by hand."""
    engine = Engine(
        find_model(str(tiny_model(family))), width=64, height=64, steps=1, batch_size=1,
        guidance_scale=1.0,
    )  # fmt: skip
    calls: list[tuple[Any, Any, Any]] = []
    hook = engine.denoiser.register_forward_hook(
        lambda _m, given, named, told: calls.append((given, named, told[0])), with_kwargs=True
    )
    engine.render([Case("a cat", 1)])
    hook.remove()
    given, named, told = calls[0]
    latents = given[0] if given else named["hidden_states"]
    time = given[1] if given else named["timestep"]
    assert engine.traits.predict is not None
    if family == "flux":
        time = time * 1000
        latents, told = (engine.traits.unpack(engine.pipe, x, 64, 64) for x in (latents, told))  # type: ignore[misc]
    texts = dict(engine.texts("a cat"))
    with torch.inference_mode():
        ours = engine.traits.predict(engine.pipe, latents, time.reshape(-1), texts)
    torch.testing.assert_close(ours, told, atol=1e-5, rtol=1e-4)

    z = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    if engine.traits.flow:
        sigma = 0.70
        noisy, truth, at = z + sigma * (noise - z), noise - z, 1000 * sigma
    else:
        from diffusers import DDPMScheduler

        plain = DDPMScheduler.from_config(dict(engine.model.scheduler))
        step = torch.tensor([600])
        noisy, at = plain.add_noise(z, noise, step), float(step)
        truth = plain.get_velocity(z, noise, step) if family == "sd2" else noise
    with torch.inference_mode():
        told = engine.traits.predict(engine.pipe, noisy, torch.tensor([at]), texts)
    by_hand = ((told - truth) ** 2).mean().item()
    assert judge.errors(engine, [z], [["a cat"]])[0] == pytest.approx([by_hand], rel=1e-4)


def scheduled(folder: Path, to: Path, own: dict[str, Any]) -> Path:
    """A copy of the model folder with this scheduler."""
    shutil.copytree(folder, to)
    (to / "scheduler" / "scheduler_config.json").write_text(json.dumps(own))
    return to


FLOWING = (
    {
        "_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction",
        "use_flow_sigmas": True, "flow_shift": 3.0,
    },
    {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
)  # fmt: skip


@pytest.mark.parametrize("own", FLOWING, ids=lambda own: own["_class_name"][:6])
@pytest.mark.parametrize("sampler", ["", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_a_unet_that_was_trained_for_flow_matching(
    tiny_model: Callable[[str], Path], tmp_path: Path, own: dict[str, Any], sampler: str
) -> None:
    """One that knows the velocity from everywhere to one picture: samplers end there, and the
    judge finds no error."""
    model = find_model(str(scheduled(tiny_model("sd1"), tmp_path / "model", own)))
    assert usual(model) == "dpmpp_2m"
    engine = Engine(
        model, width=64, height=64, steps=6, batch_size=1, guidance_scale=1.0, sampler=sampler
    )
    z = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))

    def velocity(noisy: Any, time: Any, *_: Any, **_given: Any) -> tuple[torch.Tensor]:
        return ((noisy - z) / (time / 1000).reshape(-1, 1, 1, 1),)

    engine.denoiser.forward = velocity
    spread = 0.02 if "sde" not in sampler else 0.2  # times are whole, sigmas are not
    torch.testing.assert_close(engine.denoise([Case("a cat", 1)]), z, atol=spread, rtol=0.02)
    assert judge.errors(engine, [z], [["a cat", ""]])[0] == pytest.approx([0, 0], abs=1e-9)


def test_what_a_scheduler_says_that_cannot_be_done_is_one_sentence(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    def made(name: str, own: dict[str, Any]) -> BaseModel:
        return find_model(str(scheduled(tiny_model("sd1"), tmp_path / name, own)))

    flowing = made("flow", dict(FLOWING[0]))
    for sampler, said in (
        ("dpmpp_2m_karras", r"flow matching.*choose DPM\+\+ 2M or leave sampler out"),
        ("euler_a", "ignores use_flow_sigmas.*choose another sampler"),
    ):
        with pytest.raises(UserError, match=said):
            Engine(flowing, width=64, height=64, sampler=sampler)
    with pytest.raises(UserError, match="flow-matching models have none"):
        find_model(str(tmp_path / "flow"), prediction_type="epsilon")
    strange = made("strange", {"_class_name": "DDPMScheduler", "prediction_type": "residual"})
    engine = Engine(strange, width=64, height=64)
    for ask in (
        lambda: judge.errors(engine, [torch.zeros(1, 4, 8, 8)], [["a cat"]]),
        lambda: judge.features(engine, [torch.zeros(1, 4, 8, 8)]),
    ):
        with pytest.raises(UserError, match="predicts 'residual'.*cannot be judged; correct"):
            ask()
    edm = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon", "sigma_data": 0.5}
    with pytest.raises(UserError, match="EDMEulerScheduler.*choose another base model"):
        Engine(made("edm", edm), width=64, height=64, sampler="dpmpp_2m_karras")


def test_what_the_decoder_made_is_what_the_encoder_reads(demo: Engine) -> None:
    z = demo.denoise([Case("a red apple", 1)])
    again = judge.latents(demo, demo.decode(z)[0])
    assert np.corrcoef(z.flatten(), again.flatten())[0, 1] > 0.9


def test_the_right_prompt_wins_and_loses_as_the_picture_becomes_another(demo: Engine) -> None:
    demo.apply(None, Decimal(0))
    pictures = [demo.render([Case(prompt, 1)])[0] for prompt in PROMPTS]
    own, others = [], []
    for picture, prompt in zip(pictures, PROMPTS, strict=True):
        z = judge.latents(demo, picture)
        for text in PROMPTS:
            ((error,),) = judge.errors(demo, [z], [[text]])
            (own if text == prompt else others).append(error)
        rest = rivals(prompt, PROMPTS)
        assert Adherence()([sample(demo, picture, prompt, rest)]) == [1.0]
        assert AdherenceMargin()([sample(demo, picture, prompt, rest)])[0] > 0
    first, last = (x.astype(float) for x in pictures[:2])
    judging, margins, kept = Adherence(), [], []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed = np.rint((1 - part) * first + part * last).astype(np.uint8)
        mix = sample(demo, mixed, PROMPTS[0], PROMPTS[1:], pictures[0])
        margins += AdherenceMargin()([mix])
        kept += judging([mix])
    assert margins[1:] == sorted(margins[1:], reverse=True)
    assert all(after < before + 0.02 for before, after in pairwise(kept))
    assert margins[-1] < 0 < margins[0]
    assert kept[0] == 1 and kept[2] > 0.2 and kept[-1] < 0.2


def test_a_picture_of_another_seed_shows_its_prompt_as_well(demo: Engine) -> None:
    """However far it is from the control: SSIM is as low as between different subjects."""
    demo.apply(None, Decimal(0))
    scenes = ("an apple on green grass", "a castle at sunset", "a panda in the snow")
    prompts = [f"a picture of {scene}" for scene in scenes]
    ours, theirs = (demo.render([Case(text, seed) for text in prompts]) for seed in (1, 2))
    judging = Adherence()
    for k, text in enumerate(prompts):
        others = tuple(other for other in prompts if other != text)
        same = judging([sample(demo, theirs[k], text, others, ours[k])])[0]
        replaced = judging([sample(demo, ours[k - 1], text, others, ours[k])])[0]
        assert ssim(theirs[k], ours[k]) < 0.7
        assert same > 0.7 > 0.4 > replaced


def test_a_style_that_keeps_its_subjects_is_not_punished(demo: Engine) -> None:
    """The sample LoRA moves every picture; at 1.0 these subjects are there, at 1.6 they are not."""
    path = sample_data.PATH / "lora" / "pstr-000006.safetensors"
    lora = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()[1:5]
    contents = [line.removesuffix(", pstr style") for line in lines]
    painted = []
    for strength in ("0", "1.0", "1.6"):
        demo.apply(lora, Decimal(strength))
        painted.append(demo.render([Case(line, 1) for line in lines]))
    bare, judging = painted[0], Adherence()

    def kept(pictures: Any) -> float:
        several = zip(pictures, contents, bare, strict=True)
        samples = [sample(demo, p, text, rivals(text, contents), of) for p, text, of in several]
        return float(np.mean(judging(samples)))

    assert kept(painted[1]) > 0.75 > 0.5 > kept(painted[2])
    assert np.mean([ssim(a, b) for a, b in zip(painted[1], bare, strict=True)]) < 0.7


def test_a_control_is_judged_once_and_says_whether_its_prompt_is_shown(
    demo: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.apply(None, Decimal(0))
    apple, cat = (demo.render([Case(text, 1)])[0] for text in PROMPTS[:2])
    asked: list[Any] = []
    whole = judge.errors

    def counted(engine: Engine, pictures: Any, texts: Any) -> list[list[float]]:
        asked.extend(text for some in texts for text in some)
        return whole(engine, pictures, texts)

    monkeypatch.setattr(judge, "errors", counted)
    judging, others = Adherence(), PROMPTS[1:]
    assert judging([sample(demo, apple, PROMPTS[0], others)]) == [1.0]
    assert len(asked) == 1 + len(others)
    judging([sample(demo, cat, PROMPTS[0], others, apple) for _ in range(2)])
    assert len(asked) == 3 * (1 + len(others))
    wrong = [sample(demo, cat, PROMPTS[0], PROMPTS[1:2], of) for of in (None, cat)]
    assert np.isnan(judging(wrong)).all() and len(asked) == 3 * (1 + len(others)) + 4


def test_the_lora_is_absent_while_judging_and_back_afterwards(demo: Engine) -> None:
    path = sample_data.PATH / "lora" / "pstr-000007.safetensors"
    lora = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
    demo.apply(None, Decimal(0))
    picture = demo.render([Case("a cat", 1)])[0]
    asked = sample(demo, picture, "a cat", PROMPTS[:1] + PROMPTS[2:])
    bare = Adherence()([asked]), AdherenceMargin()([asked])
    demo.apply(lora, Decimal("1.2"))
    before = demo.render([Case("a cat", 1)])[0]
    weights = {name: w.clone() for name, w in demo.denoiser.named_parameters()}
    fresh = sample(demo, picture, "a cat", PROMPTS[:1] + PROMPTS[2:])
    assert (AdherenceMargin()([fresh]), Adherence()([fresh])) == (bare[1], bare[0])
    assert all(w.equal(weights[name]) for name, w in demo.denoiser.named_parameters())
    assert (demo.render([Case("a cat", 1)])[0] == before).all()
    assert not (before == picture).all()


def sample(
    engine: Engine, picture: Any, own: str, others: tuple[str, ...], control: Any = None
) -> Sample:
    return Sample(picture, control, renderer=engine, content=own, others=others)


def test_the_other_prompts_are_few_and_the_same_for_all_candidates() -> None:
    many = [f"a picture of {k}" for k in range(30)]
    chosen = rivals(many[0], many)
    assert len(set(chosen)) == 4 and many[0] not in chosen
    assert rivals(many[0], many[::-1] + [many[0], "  "]) == chosen
    assert set(rivals(many[0], [*many, "one more"])) - set(chosen) <= {"one more"}
    assert rivals("a", ["a"]) == ()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_features_are_what_a_block_on_the_way_gives(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    engine = Engine(find_model(str(tiny_model(family))), width=64, height=64, batch_size=1)
    z = torch.randn((1, judge_channels(engine), 8, 8), generator=torch.Generator().manual_seed(5))
    found, again, other = judge.features(engine, [z, z, 2 * z])
    assert len(found) == (1 if engine.traits.flow else len(engine.denoiser.up_blocks))
    for one, same, unlike in zip(found, again, other, strict=True):
        assert one.dtype == np.float32 and one.ndim == 3 and np.isfinite(one).all()
        assert one.shape[0] == one.shape[1] and one.shape[0] in (1, 2, 4, 8)
        assert (same == one).all() and not np.allclose(unlike, one)
    assert not [m for m in engine.denoiser.modules() if m._forward_hooks]


def judge_channels(engine: Engine) -> int:
    return int(engine.pipe.vae.config.latent_channels)


def test_features_of_a_noisy_picture_by_hand(demo: Engine) -> None:
    from diffusers import DDPMScheduler

    demo.apply(None, Decimal(0))
    z = demo.denoise([Case("a red apple", 1)])
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    plain = DDPMScheduler.from_config(dict(demo.model.scheduler))
    noisy = plain.add_noise(z, noise, torch.tensor([250]))
    seen: list[Any] = []
    hooks = [
        block.register_forward_hook(lambda _m, _g, told: seen.append(told))
        for block in demo.pipe.unet.up_blocks
    ]
    with torch.inference_mode():
        demo.pipe.unet(noisy, 250, demo.texts("")["prompt_embeds"])
    for hook in hooks:
        hook.remove()
    for found, told in zip(judge.features(demo, [z])[0], seen, strict=True):
        by_hand = told[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-4)


def test_likeness_is_highest_to_pictures_of_the_same(demo: Engine) -> None:
    demo.apply(None, Decimal(0))
    apples = [demo.render([Case("a red apple on green grass", seed)])[0] for seed in (1, 2, 3)]
    other = demo.render([Case("a rocket at night", 4)])[0]
    metric = ReferenceLikeness()

    def like(picture: Any, references: Any) -> float:
        return metric([Sample(picture, renderer=demo, references=references)])[0]

    rest = tuple(apples[1:])
    assert like(apples[0], tuple(apples)) > like(apples[0], rest) > like(other, rest) + 0.1
    assert HeldOutLikeness()([Sample(apples[0], renderer=demo, held_out=rest)]) == pytest.approx(
        [like(apples[0], rest)]
    )


def test_a_wreck_in_the_right_colours_is_less_like_than_a_good_picture(demo: Engine) -> None:
    """The sample LoRA's epoch 6, faint, good and far too strong, beside its training pictures."""
    path = sample_data.PATH / "lora" / "pstr-000006.safetensors"
    lora = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
    posters = Pictures(tuple(sorted((sample_data.PATH / "references").glob("*.jpg"))))
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()[:4]
    found = []
    for strength in ("0", "0.4", "1.0", "1.8"):
        demo.apply(lora, Decimal(strength))
        pictures = demo.render([Case(line, 1) for line in lines])
        samples = [Sample(p, renderer=demo, references=posters) for p in pictures]
        found.append(np.mean(ReferenceLikeness()(samples)))
    none, faint, good, wrecked = found
    assert none < faint < good and wrecked < good


def test_each_part_has_to_be_like_one_of_the_references() -> None:
    """Parts that have the references' mean, and are none of theirs, are not like them."""
    random = np.random.default_rng(0)
    kinds = random.normal(size=(4, 32))
    references = [
        kinds[random.permutation(np.repeat(range(4), 16))] + 0.1 * random.normal(size=(64, 32))
        for _ in range(5)
    ]
    good = kinds[np.repeat(range(4), 16)]
    wreck = np.repeat(kinds.mean(axis=0)[None], 64, axis=0) + random.normal(size=(64, 32))
    wreck += good.mean(axis=0) - wreck.mean(axis=0)
    np.testing.assert_allclose(good.mean(axis=0), wreck.mean(axis=0))
    known = [[reference] for reference in references]
    assert alike([good], known) > 0.95 > 0.6 > alike([wreck], known)
    shuffled = good[random.permutation(64)]
    assert alike([shuffled], known[::-1]) == pytest.approx(alike([good], known))
    both = alike([good, wreck], [[reference, reference] for reference in references])
    assert both == pytest.approx((alike([good], known) + alike([wreck], known)) / 2)


@pytest.mark.parametrize(("high", "wide"), [(128, 128), (128, 192), (320, 128), (40, 40)])
def test_parts_are_means_of_the_features(demo: Engine, high: int, wide: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    (whole,) = judge.features(demo, [judge.latents(demo, picture)])
    for found, plane in zip(parts([Sample(picture, renderer=demo)])[0], whole, strict=True):
        bands = [
            [slice(k * n // 8, (k + 1) * n // 8) for k in range(8)] if n >= 8
            else [slice(k, k + 1) for k in range(n)]
            for n in plane.shape[:2]
        ]  # fmt: skip
        by_hand = [
            plane[rows, columns].mean(axis=(0, 1)) for rows in bands[0] for columns in bands[1]
        ]
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-5)


def harmed(picture: Any, kind: str, step: int) -> Any:
    """A picture that noise, exaggerated colours or moved tiles make less and less a poster."""
    random = np.random.default_rng(0)
    plain = picture.astype(float)
    if kind == "noise":
        plain += random.normal(0, (40, 100)[step], plain.shape)
    elif kind == "colours":
        grey = plain.mean(axis=2, keepdims=True)
        plain = grey + (2.5, 5)[step] * (plain - grey)
    else:
        side = (64, 16)[step]
        count = 128 // side
        tiles = plain.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        tiles = random.permutation(tiles).reshape(count, count, side, side, 3)
        plain = tiles.swapaxes(1, 2).reshape(128, 128, 3)
    return np.clip(np.rint(plain), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "colours", "tiles"])
def test_likeness_falls_as_posters_are_harmed(demo: Engine, kind: str) -> None:
    demo.apply(None, Decimal(0))
    posters = Pictures(tuple(sorted((sample_data.PATH / "references").glob("*.jpg"))))
    unseen = Pictures(tuple(sorted((sample_data.PATH / "held_out").glob("*.jpg"))))

    def like(pictures: Any) -> float:
        samples = [Sample(p, renderer=demo, references=posters) for p in pictures]
        return float(np.mean(ReferenceLikeness()(samples)))

    whole = like(unseen)
    mild, strong = (like([harmed(p, kind, step) for p in unseen]) for step in (0, 1))
    assert whole > mild > strong and whole - strong > 0.02


def test_several_pictures_get_what_each_gets_alone_in_their_order(demo: Engine) -> None:
    """Of different sizes, asked different things: the denoiser's batches are always full."""
    random = np.random.default_rng(0)
    shapes = ((128, 128), (64, 128), (128, 128), (96, 64))
    zs = [
        judge.latents(demo, random.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for shape in shapes
    ]
    asked = [["a cat", "a dog"][: 1 + n % 2] + [""] for n in range(len(zs))]
    together = judge.errors(demo, zs, asked)
    assert together == [judge.errors(demo, [z], [one])[0] for z, one in zip(zs, asked, strict=True)]
    for found, z in zip(judge.features(demo, zs), zs, strict=True):
        for one, alone in zip(found, judge.features(demo, [z])[0], strict=True):
            assert np.array_equal(one, alone)

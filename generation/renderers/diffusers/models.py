"""Base models: where they lie, what family they are, how they load with no network.

A model is a diffusers folder, a hub id (found in the hub's cache, or downloaded), or a single
`.safetensors` or `.gguf` checkpoint in Stability's or Black Forest Labs' layout. Configurations and
tokenizer for single files of Stable Diffusion 1.x, 2.x and XL ship in `configs` beside this file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.errors import UserError, first_line, named
from generation.families import FAMILIES, Rendering, words
from generation.files import read_json
from generation.loras.container import Header, one_line, read_header, sha256, shorten
from generation.loras.training import first_known, said_prediction
from generation.loras.training import prediction_type as stated
from generation.renderers.diffusers import quantised

if TYPE_CHECKING:
    import torch

CONFIGS = Path(__file__).with_name("configs")

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

PREDICTION_TYPES = ("epsilon", "v_prediction", "v_prediction_zsnr")

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""A schedule that ends in pure noise (Lin et al. 2023, https://arxiv.org/abs/2305.08891)."""

PARTS = {
    "unet": "unet",
    "transformer": "transformer",
    "te": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
    "te4": "text_encoder_4",
}
"""A LoRA's parts -> the pipeline's component names."""


@dataclass(frozen=True)
class BaseModel:
    """A base model on this disk.

    `path` is a diffusers folder or a single checkpoint; `config` is the folder of configurations
    that a single checkpoint needs (None for a folder). `digest` is the SHA-256 of a checkpoint, or
    of a folder's names and contents. `scheduler` is the model's own scheduler configuration.
    `few_steps` marks a distilled model, such as FLUX.1 schnell, which its model card renders in few
    steps without guidance. `edits` is the pipeline of a model that edits pictures, else "".
    `stored` says how the weights are quantised, if they are.
    """

    name: str
    path: Path
    family: str
    width: int
    height: int
    digest: str
    scheduler: Mapping[str, Any]
    config: Path | None = None
    few_steps: bool = False
    edits: str = ""
    stored: str = ""

    @property
    def traits(self) -> Rendering:
        usual = FAMILIES[self.family]
        if self.edits:
            usual = replace(usual, pipeline=self.edits, **usual.edits[self.edits])
        return replace(usual, **usual.few) if self.few_steps else usual


def find_model(
    name: str, *, config: Path | None = None, prediction_type: str | None = None
) -> BaseModel:
    """The base model that `name` means; downloads a hub id that is not in the cache.

    `config` (a diffusers folder; weights optional) describes a single checkpoint that the shipped
    configurations do not fit, and supplies the parts that it lacks. `prediction_type` overrides
    what the model says of itself; "v_prediction_zsnr" with a schedule that ends in pure noise.
    Raises UserError when the model cannot be had, or not be used.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return _single_file(name, path, config, prediction_type)
    if path.suffix in {".safetensors", ".gguf", ".ckpt", ".pt"}:
        wrong = "is no file; name one." if path.exists() else "does not exist; check the path."
        raise UserError(f"{name} {wrong}", field="model")
    if config is not None:
        raise UserError(f"{named('model_config')} is for single checkpoints, and {name} is none.")
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(
                f"{name} has no model_index.json; name a diffusers pipeline folder or a "
                ".safetensors checkpoint.",
                field="model",
            )
        folder = path
    elif _HUB_ID.fullmatch(name):
        folder = _from_hub(name)
    else:
        raise UserError(f"there is no folder or file {name}; check the path.", field="model")
    family = folder_family(folder, name)
    edits = _edits(folder, family)
    width, height = _folder_size(folder, family, edits)
    scheduler = _scheduler_config(folder, prediction_type)
    digest = folder_digest(folder)
    few = _is_distilled(folder, family, scheduler)
    stored = quantised.folder_kinds(folder, name)
    return BaseModel(
        name, folder, family, width, height, digest, scheduler, None, few, edits, stored
    )


def _edits(folder: Path, family: str) -> str:
    """The pipeline of a diffusers folder if it edits pictures, else ""."""
    kind = str(read_json(folder / "model_index.json")["_class_name"])
    return kind if kind in FAMILIES[family].edits else ""


def _is_distilled(folder: Path, family: str, scheduler: Mapping[str, Any]) -> bool:
    traits = FAMILIES[family]
    if traits.distilled is None:
        return False
    index = dict(read_json(folder / "model_index.json"))
    return traits.distilled(index, _config(folder, traits.denoiser), scheduler)


def folder_family(folder: Path, name: str = "", field: str = "model") -> str:
    """The family of a diffusers folder, as `lora.LoraInfo.family` names it.

    A folder with Python code is refused: diffusers would import it.
    """
    code = next(folder.rglob("*.py"), None)
    if code is not None:
        raise UserError(
            f"{name or folder} holds Python code ({code.relative_to(folder)}), which is never run; "
            "use a model without.",
            field=field,
        )
    try:
        kind = str(read_json(folder / "model_index.json")["_class_name"])
        families = [f for f, one in FAMILIES.items() if kind in {one.pipeline, *one.edits}]
        if families == ["sd1", "sd2"]:
            width = _config(folder, "unet").get("cross_attention_dim")
            return "sd2" if width == 1024 else "sd1"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name or folder} is no complete diffusers folder "
            f"({first_line(error)}); download it again.",
            field=field,
        ) from error
    if not families:
        known = ", ".join(words(family) for family in FAMILIES)
        raise UserError(
            f"{name or folder} is a {kind}, which cannot be rendered here; use a "
            f"text-to-image model of {known}.",
            field=field,
        )
    _check_encoders(folder, families[0], name, field)
    return families[0]


def _check_encoders(folder: Path, family: str, name: str, field: str) -> None:
    """Raise UserError where a text encoder is not there that the pipeline does not do without."""
    index = read_json(folder / "model_index.json")
    for part in FAMILIES[family].encoders:
        component = PARTS[part]
        if index.get(component) != [None, None] and not (folder / component).is_dir():
            remedy = FAMILIES[family].apart or "download it again, whole"
            raise UserError(f"{name or folder} lacks its {component}; {remedy}.", field=field)


def check_name(name: str) -> None:
    """Raise UserError where `find_model` would for the name alone: no file, folder or hub id."""
    try:
        there = Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        there = False
    if not there and not _HUB_ID.fullmatch(name):
        raise UserError(f"there is no folder or file {name}; check the path.", field="model")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and the SHA-256 of the model's weights and configurations."""
    total = hashlib.sha256()
    kinds = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}
    for path in sorted(folder.rglob("*")):
        if path.suffix in kinds and path.is_file() and path.name != "README.json":
            total.update(path.relative_to(folder).as_posix().encode() + b"\0")
            total.update(_file_digest(path).encode())
    return total.hexdigest()


def load_pipeline(model: BaseModel, dtype: torch.dtype) -> Any:
    """The model's text-to-image pipeline on the CPU, without safety checker and watermark."""
    import diffusers
    from safetensors.torch import load_file

    kind = getattr(diffusers, model.traits.pipeline)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if model.traits.pipeline == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if model.traits.pipeline == "StableDiffusionXLPipeline":
        options["add_watermarker"] = False
    try:
        if model.config is None:
            parts = _whole_parts(model, model.path, dtype)
            return kind.from_pretrained(str(model.path), **{**parts, **options})
        denoiser = model.traits.denoiser
        if model.traits.flow:
            _check_holds(model, denoiser)
            parts = _whole_parts(model, model.config, dtype, without=denoiser)
            numbers = quantised.dequantised(quantised.read(model.path), dtype)
            if model.traits.convert is not None:
                shapes = structure(model)[denoiser]
                numbers = dict(model.traits.convert(numbers or load_file(model.path), shapes))
            parts[denoiser] = getattr(diffusers, model.traits.model).from_single_file(
                str(model.path) if numbers is None else numbers,
                config=str(model.config),
                subfolder=denoiser,
                **options,
            )
            return kind.from_pretrained(str(model.config), **{**parts, **options})
        with _complete_config(model.config) as config:
            _check_holds(model, denoiser)
            if _has_part(model.path, ("first_stage_model.", "vae.")):
                _check_holds(model, "vae")
            else:
                options["vae"] = _whole_part(model, config, "vae", dtype)
            pipe = kind.from_single_file(str(model.path), config=str(config), **options)
        for part, module in pipe.components.items():
            if hasattr(module, "named_parameters"):
                # what the checkpoint lacks is left without values
                absent = [key for key, weight in module.named_parameters() if weight.is_meta]
                _refuse_holes(model, part, absent)
        return pipe
    except UserError:
        raise
    except Exception as error:
        # diffusers and transformers raise dozens of kinds here, and every one means this.
        remedy = (
            "is it a complete diffusers folder with safetensors weights?"
            if model.config is None
            else f"parts that the checkpoint lacks must lie in {named('model_config')} FOLDER."
        )
        raise UserError(
            f"{model.name} cannot be loaded ({first_line(error)}); {remedy}", field="model"
        ) from error


def _whole_parts(
    model: BaseModel, folder: Path, dtype: torch.dtype, without: str = ""
) -> dict[str, Any]:
    """The networks of a diffusers folder by component, each with all of its weights; None where the
    folder was saved without (Stable Diffusion 3 without T5), which diffusers wants to be told."""
    found: dict[str, Any] = {}
    for part, kind in read_json(folder / "model_index.json").items():
        if kind == [None, None]:
            found[part] = None
            continue
        listed = isinstance(kind, list) and kind[0] in {"diffusers", "transformers"}
        if listed and part != without and (folder / part / "config.json").is_file():
            found[part] = _whole_part(model, folder, part, dtype)
    return found


def _whole_part(model: BaseModel, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """One network of a diffusers folder. Both libraries fill what its file lacks with random
    numbers after a mere warning: raises UserError that names it."""
    import torch

    library, kind = read_json(folder / "model_index.json")[part]
    how = quantised.method(read_json(folder / part / "config.json"))
    of = _network(library, kind)
    try:
        if how.startswith("bitsandbytes"):
            stored = quantised.from_bitsandbytes(folder / part, how, dtype)
        else:
            module = _from_files(model, of, folder, part, torch.float32 if how else dtype)
            if not how:
                return module
            stored = quantised.numbers(module, _plain(of, folder, part).state_dict(), dtype)
        return _from_numbers(model, of, folder, part, stored, dtype)
    except UserError:
        raise
    except Exception as error:
        raise ValueError(f"{part}: {first_line(error)}") from error


def _from_files(model: BaseModel, of: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """As the library loads it."""
    names = [path.name for path in (folder / part).glob("*.safetensors")]
    plain = any(".fp16" not in name for name in names)
    # transformers reports another shape; diffusers raises, and names the key
    module, found = of.from_pretrained(
        str(folder / part),
        use_safetensors=True,
        variant=None if plain or not names else "fp16",
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=of.__module__.startswith("transformers."),
        dtype=dtype,
    )
    _refuse_unloaded(model, part, found)
    return module


def _from_numbers(
    model: BaseModel, of: Any, folder: Path, part: str, stored: dict[str, Any], dtype: torch.dtype
) -> Any:
    """Of weights that were quantised, without the quantisation."""
    if of.__module__.startswith("transformers."):
        module, found = of.from_pretrained(
            None,
            config=_transformers_config(of, folder / part),
            state_dict=stored,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=dtype,
        )
        _refuse_unloaded(model, part, found)
        return module
    module = _plain(of, folder, part)
    expected = module.state_dict()
    _refuse_holes(
        model,
        part,
        [k for k, w in expected.items() if k not in stored or stored[k].shape != w.shape],
    )
    module.load_state_dict(
        {k: w.to(dtype) if (w := stored[k]).is_floating_point() else w for k in expected},
        assign=True,
    )
    return module


def _network(library: str | None, kind: str) -> Any:
    """The class of a network that model_index.json names."""
    import diffusers
    import transformers

    return getattr(diffusers if library == "diffusers" else transformers, kind)


def _plain(of: Any, folder: Path, part: str) -> Any:
    """A network of this folder without weights, and without quantisation."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # buffers are there
        return _built(of, folder, part)


def _built(of: Any, folder: Path, part: str) -> Any:
    """A network as its configuration says, wherever torch makes tensors now."""
    if of.__module__.startswith("transformers."):
        return of(_transformers_config(of, folder / part))
    return of.from_config(_config(folder, part))


def _transformers_config(of: Any, part: Path) -> Any:
    config = of.config_class.from_pretrained(str(part))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _refuse_unloaded(model: BaseModel, part: str, found: Mapping[str, Any]) -> None:
    """Raise UserError by what a library tells of its loading."""
    mismatched = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    _refuse_holes(model, part, [*found["missing_keys"], *mismatched])


def _check_holds(model: BaseModel, part: str) -> None:
    """Raise UserError where a single checkpoint lacks weights of `part`, by its header alone."""
    import diffusers
    import torch
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    assert model.config is not None
    kind = str(read_json(model.config / "model_index.json")[part][1])
    config = _config(model.config, part)
    with torch.device("meta"):
        expected = getattr(diffusers, kind).from_config(config).state_dict()
        stored = quantised.read(model.path).tensors
        weights = {key: torch.empty(stored[key].shape) for key in quantised.weights(stored)}
    if 2 * len(expected.keys() & weights.keys()) < len(expected):  # not in diffusers' names
        layouts: Mapping[str, Any] = SINGLE_FILE_LOADABLE_CLASSES
        own = model.traits.convert if part == model.traits.denoiser else None
        try:
            if own is not None:
                shapes = {key: tuple(weight.shape) for key, weight in expected.items()}
                weights = dict(own(weights, shapes))
            else:
                weights = layouts[kind]["checkpoint_mapping_fn"](checkpoint=weights, config=config)
        except KeyError as error:  # a layer that the layout cannot do without
            _refuse_holes(model, part, [str(error.args[0])])
        except Exception as error:
            raise ValueError(f"{part}: {first_line(error)}") from error
    _refuse_holes(
        model,
        part,
        [k for k, w in expected.items() if k not in weights or weights[k].shape != w.shape],
    )


def _refuse_holes(model: BaseModel, part: str, keys: Collection[str]) -> None:
    if keys:
        first = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
        raise UserError(
            f"{model.name} lacks weights of its {part}, or has them in another shape ({len(keys)}: "
            f"{first}), and random numbers would stand in for them; download it again, or install "
            "the versions of constraints.txt if it is whole.",
            field="model",
        )


# ---------------------------------------------------------------------------------------------
# Single checkpoints


def _single_file(
    name: str, path: Path, config: Path | None, prediction_type: str | None
) -> BaseModel:
    header = quantised.read(path)  # refuses pickles, web pages and truncated files
    family = checkpoint_family(header)
    quantised.scales(header)  # refuses what is quantised otherwise
    stored = quantised.kinds(header)
    if stored not in {"", "fp8"} and not FAMILIES[family].flow:
        raise UserError(
            f"{name} is {words(family)} in {stored}, which is not read here; name the same model "
            "in float16 or plain fp8.",
            field="model",
        )
    prediction = prediction_type
    if prediction is None and not FAMILIES[family].flow:
        prediction = _stated_prediction(header)
    if config is None:
        if FAMILIES[family].flow:
            raise UserError(
                f"{name} is {words(family)} without configurations; add "
                f"{named('model_config')} FOLDER, a diffusers folder of that family with its text "
                "encoders.",
                field="model",
            )
        if family == "sd2" and prediction is None:
            raise UserError(
                f"{name} does not say what it predicts; add {named('prediction_type')} "
                "v_prediction (768-pixel models) or epsilon (512-pixel models).",
                field="model",
            )
        config = CONFIGS / family
    elif folder_family(config, field="model_config") != family:
        raise UserError(
            f"{config} is not {words(family)}, which {name} is; name a "
            "diffusers folder of its family.",
            field="model_config",
        )
    edits = _edits(config, family)
    width, height = _folder_size(config, family, edits)
    if config == CONFIGS / "sd2" and prediction == "epsilon":
        width = height = 512
    scheduler = dict(_scheduler_config(config, prediction))
    if "ztsnr" in header.tensors and scheduler.get("prediction_type") == "v_prediction":
        scheduler |= ZERO_SNR
    digest = sha256(path)
    if config.parent != CONFIGS:
        digest = hashlib.sha256((digest + folder_digest(config)).encode()).hexdigest()
    traits = FAMILIES[family]
    if traits.flow:  # whose text encoders are the folder's
        beside = quantised.folder_kinds(config, str(config), "model_config", traits.denoiser)
        stored = "; ".join(filter(None, [stored, beside]))
    if traits.guided_by:
        few = not any(layer in key for key in header.tensors for layer in traits.guided_by)
    else:
        few = _is_distilled(config, family, scheduler)
    return BaseModel(
        name, path, family, width, height, digest, scheduler, config, few, edits, stored
    )


def checkpoint_family(header: Header) -> str:
    """The family of a single checkpoint, from its keys.

    Raises UserError for LoRAs, refiners, inpainting models and checkpoints without a denoiser.
    """
    keys = header.tensors
    name = header.path.name
    text = " ".join(sorted({".".join(key.split(".")[:3]) for key in keys}))
    listed = "\n".join(keys)
    for family, traits in FAMILIES.items():
        if traits.marks and all(re.search(mark, listed) for mark in traits.marks):
            return family
    first = keys.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None:
        lora = any("lora" in key or "hada_" in key or "lokr_" in key for key in keys)
        raise UserError(
            f"{name} is "
            + ("a LoRA, not a base model" if lora else "no checkpoint of a known layout")
            + "; name a base model: a checkpoint, a diffusers folder or a hub id.",
            field="model",
        )
    if first.shape[1] != 4:
        raise UserError(
            f"{name} takes {first.shape[1]} input channels (an inpainting or depth "
            "model); name its text-to-image model.",
            field="model",
        )
    if "conditioner.embedders.1" in text:
        return "sdxl"
    if "conditioner.embedders.0" in text:
        raise UserError(f"{name} is an SDXL refiner; name the SDXL base model.", field="model")
    if "cond_stage_model.model" in text:
        return "sd2"
    if "cond_stage_model.transformer" in text:
        return "sd1"
    raise UserError(
        f"{name} holds no text encoder; name a whole checkpoint or a diffusers folder.",
        field="model",
    )


def _stated_prediction(header: Header) -> str | None:
    """What the checkpoint says it predicts: the key `v_pred`, or metadata.

    Raises UserError where it says something else than noise and velocity.
    """
    edm = {"edm_mean", "edm_vpred.sigma_max"} & header.tensors.keys()
    if edm:  # ComfyUI's supported_models.py knows Playground 2.5 and CosXL by them
        raise UserError(
            f"{header.path.name} is of EDM's noise levels ({min(edm)}: Playground v2.5, CosXL), "
            "which no sampler here has; choose another base model.",
            field="model",
        )
    if "v_pred" in header.tensors:
        return "v_prediction"
    told = first_known(header.metadata, "modelspec.prediction_type")
    if told is not None and said_prediction(told) is None:
        raise UserError(
            f"{header.path.name} says that it predicts {shorten(one_line(told), 40)!r}, which is "
            f"not known here; say what it predicts with {named('prediction_type')}.",
            field="prediction_type",
        )
    return stated(header.metadata)


def _has_part(path: Path, prefixes: tuple[str, ...]) -> bool:
    return any(key.startswith(prefixes) for key in read_header(path).tensors)


@contextmanager
def _complete_config(config: Path) -> Iterator[Path]:
    """The folder itself or, for a shipped one, a copy with the tokenizers' files written out."""
    if config.parent != CONFIGS:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="lora-analysers-") as scratch:
        copy = Path(shutil.copytree(config, Path(scratch, config.name)))
        for folder in copy.glob("tokenizer*"):
            write_clip_tokenizer(folder)
        yield copy


def write_clip_tokenizer(folder: Path) -> None:
    """Write CLIP's `vocab.json` and `merges.txt` (Radford et al. 2021) from the shipped merges.

    The vocabulary is: 256 bytes under printable stand-ins (as in GPT-2), the same ending a word,
    one entry a merge, and the two special tokens; 49,408 in all.
    """
    merges = gzip.decompress((CONFIGS / "clip_merges.txt.gz").read_bytes()).decode().splitlines()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    words = symbols + [symbol + "</w>" for symbol in symbols]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n"
    )


# ---------------------------------------------------------------------------------------------
# The hub and its cache


def _from_hub(name: str) -> Path:
    """A hub model's folder, from the cache where it is complete there, else downloaded."""
    import diffusers
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # many kinds, all meaning "not in the cache"
        cached = None
    if cached is not None and _is_complete(cached):
        return cached
    try:
        return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:
        raise UserError(f"{name} {hub_problem(error)}", field="model") from error


def _is_complete(folder: Path) -> bool:
    """Whether every part that the index names has its weights or other files there."""
    try:
        index = read_json(folder / "model_index.json")
    except (OSError, ValueError):
        return False
    for part, kind in index.items():
        if part.startswith("_") or not isinstance(kind, list) or kind[0] is None:
            continue
        if part in {"safety_checker", "feature_extractor", "image_encoder"}:
            continue
        wanted = "*.json" if part.startswith(("tokenizer", "scheduler")) else "*.safetensors"
        if not any((folder / part).glob(wanted)):
            return False
    return True


def hub_problem(error: BaseException) -> str:
    """Why a hub model cannot be had, and what to do, from the client's error and its causes."""
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        names += [kind.__name__ for kind in type(cause).__mro__]
        cause = cause.__cause__ or cause.__context__
    if "GatedRepoError" in names:
        return "is gated: accept its licence on its hub page, then log in with `hf auth login`."
    if "RepositoryNotFoundError" in names:
        return "is not on the hub, or is private: check the name, or log in with `hf auth login`."
    cached = "not fully cached locally" in str(error)  # diffusers hides its cause
    if cached or "OfflineModeIsEnabled" in names or "LocalEntryNotFoundError" in names:
        return (
            "is no folder here and not complete in the hub's cache, and the hub cannot be "
            "reached; download it once with a network, or name a folder."
        )
    return f"is no folder here and cannot be had from the hub ({first_line(error)})."


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; in the hub's cache, large files are named by it."""
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    return sha256(path)


# ---------------------------------------------------------------------------------------------
# Configurations


def _config(folder: Path, part: str) -> dict[str, Any]:
    """A network's configuration, without how its weights are stored."""
    config = dict(read_json(folder / part / "config.json"))
    config.pop("quantization_config", None)
    return config


def _folder_size(folder: Path, family: str, edits: str = "") -> tuple[int, int]:
    """Width and height in pixels that the model was made for."""
    try:
        own = {"side": FAMILIES[family].side, **FAMILIES[family].edits.get(edits, {})}["side"]
        if own:
            return own, own
        latent = _config(folder, FAMILIES[family].denoiser).get("sample_size") or 128
        side = int(latent) * 2 ** (len(_config(folder, "vae")["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no complete diffusers folder ({first_line(error)}); download it again.",
            field="model",
        ) from error
    return side, side


def _scheduler_config(folder: Path, prediction_type: str | None) -> Mapping[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config = dict(read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}).", field="model") from error
    if prediction_type is not None:
        if prediction_type not in PREDICTION_TYPES:
            known = " or ".join(PREDICTION_TYPES)
            raise UserError(f"{prediction_type} is unknown; say {known}.", field="prediction_type")
        said = (config.get("_class_name", ""), config.get("prediction_type", ""))
        if "flow" in " ".join(map(str, said)).lower():
            raise UserError(
                "flow-matching models have none; leave it out.", field="prediction_type"
            )
        config["prediction_type"] = prediction_type.removesuffix("_zsnr")
        if prediction_type.endswith("_zsnr"):
            config |= ZERO_SNR
    return config


# ---------------------------------------------------------------------------------------------
# Structure


def structure(model: BaseModel) -> dict[str, dict[str, tuple[int, ...]]]:
    """The parameters that a LoRA can change: {part: {name: shape}}, as the loaded model has them.

    Built from the configurations on torch's meta device: no weights are read. Raises UserError
    where a configuration is missing or makes no model.
    """
    import torch

    folder = model.config or model.path
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    try:
        index = read_json(folder / "model_index.json")
        for part, name in PARTS.items():
            library, kind = index.get(name) or (None, None)
            if kind is None:
                continue
            of = _network(library, kind)
            with torch.device("meta"):
                module = _built(of, folder, name)
            found[part] = {key: tuple(p.shape) for key, p in module.named_parameters()}
    except Exception as error:  # the libraries raise dozens of kinds, and every one means this
        raise UserError(
            f"{model.name} has configurations that make no model ({first_line(error)}); is it a "
            "complete diffusers folder?",
            field="model",
        ) from error
    return found

"""Further metrics, for those who installed the extra `metrics` (piq) or `render` (transformers).

From piq, each against the control: ms_ssim, gmsd and vif, which need nothing else, and the networks
dists and lpips, whose weights have to lie in torch's cache. From transformers: how well picture and
prompt agree by CLIP. Nothing here goes to the network: what is missing is said by `check`, before
rendering begins, with the way to get it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from analysers.metrics.luma import Pixels
from analysers.metrics.metric import Declaration, Declared, Metric, Sample
from analysers.metrics.references import whole
from generation.errors import UserError, first_line, named

if TYPE_CHECKING:
    import torch

CLIP_DEFAULT = "openai/clip-vit-base-patch32"

Compare: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"


def ms_ssim() -> Metric:
    """Multi-scale SSIM, 0 to 1, 1 for identical pictures; from 161 x 161 pixels. Wang, Simoncelli,
    Bovik (2003), "Multiscale structural similarity for image quality assessment".
    """
    return PiqFunction(_compares("ms_ssim", "higher", "MS-SSIM"), "multi_scale_ssim")


def gmsd() -> Metric:
    """Gradient magnitude similarity deviation, 0 for identical pictures. Xue, Zhang, Mou, Bovik
    (2014), "Gradient magnitude similarity deviation", IEEE TIP 23(2).
    """
    return PiqFunction(_compares("gmsd", "lower", "GMSD"), "gmsd")


def vif() -> Metric:
    """Visual information fidelity in the pixel domain, 1 for identical pictures; from 41 x 41
    pixels. Sheikh, Bovik (2006), "Image information and visual quality", IEEE TIP 15(2).
    """
    return PiqFunction(_compares("vif", "higher", "VIF"), "vif_p")


def dists() -> Metric:
    """DISTS, 0 for identical pictures. Ding, Ma, Wang, Simoncelli (2020), "Image quality
    assessment: unifying structure and texture similarity", IEEE TPAMI.
    """
    return PiqNetwork(_compares("dists", "lower", "DISTS"), "DISTS")


def lpips() -> Metric:
    """LPIPS on VGG16, 0 for identical pictures. Zhang, Isola, Efros, Shechtman, Wang (2018), "The
    unreasonable effectiveness of deep features as a perceptual metric".
    """
    return PiqNetwork(_compares("lpips", "lower", "LPIPS"), "LPIPS")


def _compares(name: str, better: Literal["higher", "lower"], label: str) -> Declaration:
    return Declaration(
        name, better, label=label, about="change against the control", needs=frozenset({"control"})
    )


@dataclass(frozen=True)
class PiqFunction(Declared):
    """A function of piq that compares a picture with its control, without weights.

    A picture too small for the function raises ValueError with the smallest size.
    """

    declaration: Declaration
    function: str

    def check(self) -> None:
        """Raise `UserError` if piq is not installed."""
        _need("piq", self.name)

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        import piq

        return _compare(self.name, getattr(piq, self.function), samples)


@dataclass
class PiqNetwork(Declared):
    """A network of piq that compares a picture with its control."""

    declaration: Declaration
    loss: str

    def check(self) -> None:
        """Raise `UserError` if piq or a file of weights is missing, or a file is broken."""
        _need("piq", self.name)
        missing = [path.name for path in self._files() if not path.is_file()]
        if missing:
            raise UserError(
                f'The metric "{self.name}" needs {" and ".join(missing)} in '
                f'{self._files()[0].parent}; run python -c "import piq; piq.{self.loss}()" once '
                f"where there is a network and copy the files, or leave {self.name} out "
                f"of {named('metrics')}."
            )
        try:
            _ = self._network
        except Exception as error:
            raise UserError(
                f'The weights of the metric "{self.name}" in {self._files()[0].parent} cannot be '
                f"loaded ({first_line(error)}); delete them and download them again."
            ) from error

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return _compare(self.name, self._network, samples)

    def _files(self) -> list[Path]:
        """What piq would download: the backbone's weights and the metric's own."""
        import piq
        import torch
        from torchvision.models import VGG16_Weights

        urls = (VGG16_Weights.IMAGENET1K_V1.url, getattr(piq, self.loss)._weights_url)
        return [Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1] for url in urls]

    @cached_property
    def _network(self) -> Compare:
        import warnings

        import piq

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision deprecates the way piq asks for weights
            network: Compare = getattr(piq, self.loss)().eval()
            return network


@dataclass
class ClipScore(Declared):
    """Agreement of picture and prompt: 100 times the cosine of their CLIP embeddings, not below 0.

    After Hessel, Holtzman, Forbes, Le Bras, Choi (2021), "CLIPScore". `model` is a folder or a hub
    id that is in the local cache; "" stands for openai/clip-vit-base-patch32. NaN without a prompt.
    A prompt is cut at the number of tokens that the model takes (77).
    """

    model: str = ""

    def __post_init__(self) -> None:
        self.declaration = Declaration(
            f"clip:{self.model}" if self.model else "clip",
            "higher",
            label=f"CLIP score ({self.model})" if self.model else "CLIP score",
            about="agreement of picture and prompt",
            needs=frozenset({"prompt"}),
            bounds=(0.0, 100.0),
        )

    def check(self) -> None:
        """Raise `UserError` if transformers or the weights are missing or cannot be read."""
        _need("transformers", "clip", extra="render")
        _need("torch", "clip", extra="render")
        source = self.model or CLIP_DEFAULT
        if not Path(source).is_dir():
            from huggingface_hub import try_to_load_from_cache
            from huggingface_hub.errors import HFValidationError

            try:
                cached = isinstance(try_to_load_from_cache(source, "config.json"), str)
            except HFValidationError:
                cached = False
            if not cached:
                raise UserError(
                    f'The CLIP weights "{source}" are neither a folder nor in the Hugging Face '
                    "cache; download them (hf download ID) and name them as clip:FOLDER or "
                    f"clip:ID, or leave clip out of {named('metrics')}."
                )
        try:
            _ = self._loaded
        except Exception as error:
            raise UserError(
                f'The CLIP weights "{source}" cannot be loaded ({first_line(error)}); name a '
                "folder with a CLIP model, its tokenizer and its image processor as clip:FOLDER."
            ) from error

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [self._one(sample) for sample in samples]

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        source = self.model or CLIP_DEFAULT
        local: dict[str, Any] = {"local_files_only": True}
        return (
            whole(CLIPModel, source),
            AutoTokenizer.from_pretrained(source, **local),
            AutoImageProcessor.from_pretrained(source, **local),
        )

    def _one(self, sample: Sample) -> float:
        import torch

        if not sample.prompt.strip():
            return math.nan
        model, tokenizer, processor = self._loaded
        image = sample.image if sample.image.ndim == 3 else np.stack([sample.image] * 3, axis=2)
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer([sample.prompt], truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            found = model(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                pixel_values=pixels,
            )
            cosine = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return 100.0 * max(float(cosine[0]), 0.0)


def _compare(name: str, measure: Compare, samples: Sequence[Sample]) -> list[float]:
    """One picture at a time, so that no value depends on the batch."""
    import torch

    values = []
    for sample in samples:
        if sample.control is None:
            values.append(math.nan)
            continue
        with torch.no_grad():
            try:
                found = measure(_tensor(sample.image), _tensor(sample.control))
            except (AssertionError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"{name} cannot compare pictures of {sample.image.shape[1]} x "
                    f"{sample.image.shape[0]} pixels ({first_line(error)})"
                ) from error
        values.append(float(found))
    return values


def _tensor(image: Pixels) -> torch.Tensor:
    """float32 (1, 3, H, W) in 0 to 1."""
    import torch

    rgb = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    return torch.from_numpy(planes)[None].to(torch.float32) / 255.0


def _need(package: str, metric: str, extra: str = "metrics") -> None:
    if find_spec(package) is None:
        raise UserError(
            f'The metric "{metric}" needs {package}: pip install "lora-analysers[{extra}]", or '
            f"leave {metric} out of {named('metrics')}."
        )

"""Likeness to the training pictures, in features of the base model itself or of a network at hand.

What a diffusion model sees in a picture while it denoises tells subjects and styles apart without
any training for it (Tang et al. 2023, "Emergent Correspondence from Image Diffusion",
https://arxiv.org/abs/2306.03881). A picture is like the references where each of its parts is like
some part of theirs, as PatchCore tells good parts from bad ones by the nearest good ones (Roth et
al. 2022, https://arxiv.org/abs/2106.08265). Of CLIP's and DINO's features the mean cosine between a
picture and all references is taken, as DreamBooth does (Ruiz et al. 2023,
https://arxiv.org/abs/2208.12242, "CLIP-I" and "DINO"). A cosine alone says little: reports show it
between that of the controls and that of the references among each other (`analysers.likeness`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from analysers.metrics.adherence import JUDGED, latents
from analysers.metrics.luma import Pixels
from analysers.metrics.metric import Declaration, Declared, Sample, together
from generation.errors import UserError, first_line

GRID = 8
"""Parts of a picture's sides: enough to tell what lies where, few enough to be held."""

MOST = 16384
"""How many of the references' parts are looked at."""

T = TypeVar("T")
Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Pictures(Sequence[Pixels]):
    """Pictures in files, each read when it is asked for. `made` keeps what was made of them."""

    paths: tuple[Path, ...]
    made: dict[Hashable, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | Sequence[Pixels]:
        from generation.pictures.pixels import read_image

        if isinstance(index, slice):
            return Pictures(self.paths[index], self.made)
        return read_image(self.paths[index])


def each(pictures: Sequence[Pixels], make: Callable[[Pixels], T], key: Hashable) -> list[T]:
    """`make` of every picture; of pictures in files once, as long as the key is the same."""
    return all_of(pictures, lambda some: list(map(make, some)), key, 1)


def all_of(
    pictures: Sequence[Pixels], make: Callable[[list[Pixels]], list[T]], key: Hashable, size: int
) -> list[T]:
    """The same with a `make` that takes so many pictures together."""
    made = pictures.made if isinstance(pictures, Pictures) else {}
    names = pictures.paths if isinstance(pictures, Pictures) else range(len(pictures))
    lacking = [n for n, name in enumerate(names) if (key, name) not in made]
    for start in range(0, len(lacking), size):
        some = lacking[start : start + size]
        for n, value in zip(some, make([pictures[n] for n in some]), strict=True):
            made[key, names[n]] = value
    return [made[key, name] for name in names]


def fitted(picture: Pixels, height: int, width: int) -> Pixels:
    """The picture scaled until it covers the size, and its middle cut out, as trainers do."""
    from PIL import Image, ImageOps

    if picture.shape[:2] == (height, width):
        return picture
    image = ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def parts(samples: Sequence[Sample]) -> list[list[Vector]]:
    """The base model's features of the pictures, averaged down to at most 8 x 8 parts: of each
    block (parts, channels)."""
    return together(samples, _parts)


def alike(own: Sequence[Vector], references: Sequence[Sequence[Vector]]) -> float:
    """The mean cosine between each part of a picture and that of the references' parts which is
    most like it, less the mean of the references' (at most `MOST` of them, evenly chosen); the mean
    over the blocks whose features they are.

    Each part has to be like one that was trained on. The mean over all parts of a picture would
    not do: a wreck in the right colours has the right one.
    """
    blocks = zip(own, zip(*references, strict=True), strict=True)
    return float(np.mean([_alike(*block) for block in blocks]))


def _alike(own: Vector, references: Sequence[Vector]) -> float:
    every = -(-sum(map(len, references)) // MOST)
    known = np.concatenate(references)[::every]
    middle = known.mean(axis=0)
    cosines = _unit(own - middle) @ _unit(known - middle).T
    return float(cosines.max(axis=1).mean())


@dataclass(frozen=True)
class ReferenceLikeness(Declared):
    """How like a picture's parts are to the references', by the base model's features (`alike`); or
    the mean cosine to the references by a network in a local `folder` that transformers can load
    (DINOv2, CLIP).
    """

    folder: str = ""

    @property
    def declaration(self) -> Declaration:  # type: ignore[override]  # by its parameters
        return _declared("reference_likeness", "likeness to references", "references", self.folder)

    def check(self) -> None:
        """Raise `UserError` where the folder's network cannot be loaded."""
        if self.folder:
            self._network.check()

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return self._network.likeness(samples, [sample.references for sample in samples])

    @cached_property
    def _network(self) -> _Network:
        return _Network(self.folder)


@dataclass(frozen=True)
class HeldOutLikeness(ReferenceLikeness):
    """The same to pictures that were not trained on. Means over all pictures hardly tell what was
    learnt by heart: `analysers.metrics.copying` does.
    """

    @property
    def declaration(self) -> Declaration:  # type: ignore[override]  # by its parameters
        label = "likeness to held-out pictures"
        return _declared("held_out_likeness", label, "held_out", self.folder)

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return self._network.likeness(samples, [sample.held_out for sample in samples])


def _declared(name: str, label: str, need: Any, folder: str) -> Declaration:
    return Declaration(
        f"{name}:{folder}" if folder else name,
        "higher",
        label=f"{label} ({Path(folder).name})" if folder else label,
        version=1 if folder else 3,
        unit="cosine",
        about="does it look like the training pictures",
        needs=frozenset({need} if folder else {need, "renderer"}),
        bounds=(-1.0, 1.0),
        batch=1 if folder else JUDGED,
    )


@dataclass(frozen=True)
class _Network:
    """The base model where `folder` is empty, else what lies there."""

    folder: str

    def likeness(
        self, samples: Sequence[Sample], references: Sequence[Sequence[Pixels]]
    ) -> list[float]:
        """Of each sample to its references."""
        if not samples:
            return []
        if not self.folder:
            with samples[0].renderer.without_lora():
                known = map(_known_parts, samples, references)
                return list(map(alike, parts(samples), known))
        found = []
        for sample, pictures in zip(samples, references, strict=True):
            own, vectors = sample.once(self.vector_of), each(pictures, self.vector, self.folder)
            found.append(float(np.mean([own @ vector for vector in vectors])))
        return found

    def vector_of(self, sample: Sample) -> Vector:
        return self.vector(sample.image)

    def vector(self, picture: Pixels) -> Vector:
        """The network's one vector of a picture, of length 1: CLIP's embedding, else the class
        token of the last layer (which is what DINO and DINOv2 are compared by).
        """
        ask, processor = self._loaded
        image = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=2)
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        return _unit(ask(pixels))

    def check(self) -> None:
        if not Path(self.folder).is_dir():
            raise UserError(
                f'"{self.folder}" is no folder; name one with a vision model that transformers '
                "can load, such as DINOv2, or with an ONNX file, as reference_likeness:FOLDER.",
                field="metrics",
            )
        try:
            _ = self._loaded
        except Exception as error:
            raise UserError(
                f'The vision model in "{self.folder}" cannot be loaded ({first_line(error)}); name '
                "a folder with its image processor and its config.json and safetensors, or one "
                "ONNX file.",
                field="metrics",
            ) from error

    @cached_property
    def _loaded(self) -> tuple[Callable[[Any], Vector], Any]:
        """What gives a vector for pixel values (1 x 3 x H x W), and the image processor."""
        from transformers import AutoImageProcessor

        folder = Path(self.folder)
        exported = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
        ask = _exported(exported) if exported else _in_transformers(self.folder)
        return ask, AutoImageProcessor.from_pretrained(self.folder, local_files_only=True)


def whole(load: Any, folder: str, **given: Any) -> Any:
    """The network of a local folder by one of transformers' classes; ValueError where its file
    lacks weights, which transformers makes up after a mere warning."""
    model, info = load.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **given
    )
    lacking = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind]]
    if lacking := [key for key in lacking if not key.startswith("pooler.")]:
        raise ValueError(f"its weights lack {lacking[0]}")
    return model.eval()


def _in_transformers(folder: str) -> Callable[[Any], Vector]:
    import torch
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    load: Any = AutoModel
    if config.model_type.startswith("clip"):
        load, both = CLIPVisionModelWithProjection, config
        config = getattr(both, "vision_config", both)
        config.projection_dim = both.projection_dim
    model = whole(load, folder, config=config)

    @torch.no_grad()
    def ask(pixels: Any) -> Vector:
        told = model(pixel_values=pixels)
        embedding = getattr(told, "image_embeds", None)
        vector = embedding[0] if embedding is not None else told.last_hidden_state[0, 0]
        return np.asarray(vector.float().numpy())

    return ask


def _exported(files: Sequence[Path]) -> Callable[[Any], Vector]:
    """An ONNX file with one input: its `image_embeds`, else `last_hidden_state`'s class token, else
    its first output."""
    try:
        from onnxruntime import InferenceSession
    except ImportError as error:
        raise ImportError(
            'onnxruntime is missing: pip install "lora-analysers[render,onnx]"'
        ) from error

    if len(files) > 1:
        raise ValueError(f"it holds {len(files)} ONNX files, such as {files[1].name}")
    session = InferenceSession(files[0], providers=["CPUExecutionProvider"])
    inputs, outputs = (
        [x.name for x in part] for part in (session.get_inputs(), session.get_outputs())
    )
    if len(inputs) != 1:
        raise ValueError(f"{files[0].name} asks for {', '.join(inputs)}, not for a picture alone")
    known = [name for name in ("image_embeds", "last_hidden_state") if name in outputs]
    chosen = known[0] if known else outputs[0]

    def ask(pixels: Any) -> Vector:
        (told,) = session.run([chosen], {inputs[0]: pixels.numpy()})
        return np.asarray(told[0, 0] if told.ndim == 3 else told.ravel(), np.float32)

    return ask


def _known_parts(sample: Sample, references: Sequence[Pixels]) -> list[list[Vector]]:
    """The references' parts, each brought to the sample's size."""
    high, wide = sample.image.shape[:2]

    def made(some: list[Pixels]) -> list[list[Vector]]:
        return parts([Sample(fitted(one, high, wide), renderer=sample.renderer) for one in some])

    return all_of(references, made, ("parts", high, wide), JUDGED)


def _parts(samples: Sequence[Sample]) -> list[list[Vector]]:
    from generation.renderers.diffusers import judge

    seen = judge.features(samples[0].renderer, [sample.once(latents) for sample in samples])
    return [[_averaged(plane) for plane in blocks] for blocks in seen]


def _averaged(plane: Vector) -> Vector:
    """(rows, columns, channels) as the means of at most 8 x 8 parts: (parts, channels)."""
    for axis in (0, 1):
        edges = np.unique(np.arange(GRID) * plane.shape[axis] // GRID)
        sizes = np.diff([*edges, plane.shape[axis]])
        plane = np.add.reduceat(plane, edges, axis)
        plane /= np.expand_dims(sizes, (1, 2) if axis == 0 else (0, 2))
    return plane.reshape(-1, plane.shape[2])


def _unit(vectors: Vector) -> Vector:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Vector = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return units

"""A LoRA's own numbers: how large its updates are, where they sit, how they grew and turned.

Everything comes from the small factors: for dW = U V the singular values are those of the small
matrix R_U R_V' of two QR decompositions, and inner products between checkpoints are traces of
small products. LoHa is turned into such a pair by the face-splitting (row-wise Khatri-Rao)
product, (A B) o (C D) = (A . C)(B * D); LoKr's singular values are all products of its factors'
(Van Loan 2000, "The ubiquitous Kronecker product"). No update is written out unless its factors
are larger than itself. numpy only; float64 throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from generation.cells import Checkpoint
from generation.loras import inspection as lora
from generation.loras.deltas import LoraFile, ModuleDelta

if TYPE_CHECKING:
    import pandas as pd

Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ModuleWeights:
    """One module's update at strength 1.

    ``effective_rank`` is exp(entropy of the normalised singular values) (Roy & Vetterli 2007):
    from 1 (one direction) to the rank (all alike); 0 for an update of zeros.
    """

    stem: str
    part: str
    block: str
    kind: str
    rank: int | None
    frobenius: float
    spectral: float
    effective_rank: float


@dataclass(frozen=True)
class CheckpointWeights:
    """One checkpoint's updates together, and how they differ from the previous checkpoint's.

    ``frobenius`` is the norm over all modules, ``spectral`` the largest of any module,
    ``effective_rank`` the modules' mean weighted by squared norm. ``shares`` split the squared
    norm over the parts of the model, ``blocks`` that of the UNet (or transformer) over its blocks.
    ``growth`` is the norm over the previous checkpoint's; ``moved`` the norm of the difference
    (of the whole update for the first); ``cosine`` the angle between this update and the previous
    one; ``turn`` that between the last two movements: near 1 training still pushes one way,
    near 0 it wanders, below 0 it comes back. NaN where there is nothing to compare.
    """

    name: str
    label: str
    epoch: int | None
    step: int | None
    frobenius: float
    spectral: float
    effective_rank: float
    shares: Mapping[str, float]
    blocks: Mapping[str, float]
    growth: float
    moved: float
    cosine: float
    turn: float
    modules: tuple[ModuleWeights, ...]

    @property
    def text_encoder_share(self) -> float:
        """The text encoders' part of the squared norm, 0 to 1."""
        return sum(share for part, share in self.shares.items() if part.startswith("te"))


@dataclass(frozen=True)
class WeightReport:
    """Weight-space numbers of a run's checkpoints, in the order given.

    ``magnitudes_left_out`` says that DoRA magnitudes exist, whose effect needs the base weights.
    """

    checkpoints: tuple[CheckpointWeights, ...]
    magnitudes_left_out: bool = False

    def to_frame(self) -> pd.DataFrame:
        """One row per checkpoint; shares as ``share <part>`` and ``block <name>`` columns."""
        import pandas as pd

        rows = []
        for item in self.checkpoints:
            row: dict[str, object] = {
                "checkpoint": item.name,
                "label": item.label,
                "epoch": item.epoch,
                "step": item.step,
                "frobenius": item.frobenius,
                "spectral": item.spectral,
                "effective_rank": item.effective_rank,
                "growth": item.growth,
                "moved": item.moved,
                "cosine": item.cosine,
                "turn": item.turn,
                "text_encoder_share": item.text_encoder_share,
            }
            row |= {f"share {lora.PART_NAMES[part]}": s for part, s in item.shares.items()}
            row |= {f"block {name}": share for name, share in item.blocks.items()}
            rows.append(row)
        frame: pd.DataFrame = pd.DataFrame(rows)
        return frame


# ---------------------------------------------------------------------------------------------
# One update as small factors


@dataclass(frozen=True)
class LowRank:
    """dW = left @ right; ``right`` None means that ``left`` is the matrix itself."""

    left: Matrix
    right: Matrix | None = None

    @property
    def shape(self) -> tuple[int, int]:
        columns = self.left if self.right is None else self.right
        return self.left.shape[0], columns.shape[1]

    def dense(self) -> Matrix:
        return self.left if self.right is None else self.left @ self.right

    def singular_values(self) -> Matrix:
        """Descending, without the zeros that lie beyond the factors' rank."""
        if self.right is None:
            return np.linalg.svd(self.left, compute_uv=False)
        r_left: Matrix = np.asarray(np.linalg.qr(self.left, mode="r"))
        r_right: Matrix = np.asarray(np.linalg.qr(self.right.T, mode="r"))
        return np.linalg.svd(r_left @ r_right.T, compute_uv=False)

    def inner(self, other: LowRank) -> float:
        """The Frobenius inner product: tr(dW' dW_other) = sum of (U'U_o) o (V V_o')."""
        if self.right is None or other.right is None:
            return float(np.vdot(self.dense(), other.dense()))
        return float(np.vdot(self.left.T @ other.left, self.right @ other.right.T))


@dataclass(frozen=True)
class Kronecker:
    """dW = scale * kron(first, second)."""

    first: LowRank
    second: LowRank
    scale: float

    def dense(self) -> Matrix:
        return self.scale * np.kron(self.first.dense(), self.second.dense())

    def singular_values(self) -> Matrix:
        """All products of the factors' singular values, descending."""
        products = np.outer(self.first.singular_values(), self.second.singular_values())
        return np.sort(abs(self.scale) * products.ravel())[::-1]

    def inner(self, other: Kronecker) -> float:
        """<A x B, C x D> = <A, C> <B, D> where the factors have equal shapes."""
        if (self.first.shape, self.second.shape) != (other.first.shape, other.second.shape):
            return float(np.vdot(self.dense(), other.dense()))
        scale = self.scale * other.scale
        return scale * self.first.inner(other.first) * self.second.inner(other.second)


def small_form(delta: ModuleDelta) -> LowRank | Kronecker:
    """An update (of a weight or a bias) as factors, scale included, DoRA magnitudes left out.

    Convolutions are matrices [out, in * kernel]; a bias is a column.
    """
    f: dict[str, Matrix] = {
        name: np.asarray(factor, dtype=np.float64) for name, factor in delta.factors.items()
    }
    scale = delta.scale
    if delta.kind == "full":
        diff = f["diff"]
        return LowRank(scale * diff.reshape(diff.shape[0] if diff.ndim else 1, -1))
    if delta.kind == "lora":
        up, down = f["up"].reshape(f["up"].shape[0], -1), f["down"]
        right = _core(f["mid"], down) if "mid" in f else down.reshape(down.shape[0], -1)
        return _kept_small(scale * up, right)
    if delta.kind == "loha":
        halves = []
        for half in "12":
            a, b = f[f"w{half}a"], f[f"w{half}b"]
            halves.append((a.T, _core(f[f"t{half}"], b)) if f"t{half}" in f else (a, b))
        (a, b), (c, d) = halves
        if a.shape[1] * c.shape[1] >= min(a.shape[0], b.shape[1]):
            return LowRank(scale * (a @ b) * (c @ d))  # the factors would be the larger ones
        left = (a[:, :, None] * c[:, None, :]).reshape(a.shape[0], -1)
        right = (b[:, None, :] * d[None, :, :]).reshape(-1, b.shape[1])
        return LowRank(scale * left, right)
    first = LowRank(f["k1"]) if "k1" in f else _kept_small(f["k1a"], f["k1b"])
    if "k2" in f:
        second = LowRank(f["k2"].reshape(f["k2"].shape[0], -1))
    elif "kt2" in f:
        second = _kept_small(f["k2a"].T, _core(f["kt2"], f["k2b"]))
    else:
        second = _kept_small(f["k2a"], f["k2b"])
    return Kronecker(first, second, scale)


def _core(core: Matrix, right: Matrix) -> Matrix:
    """Tucker core [r, q, *k] times the inner factor [q, in] -> [r, in * k]."""
    flat = right.reshape(right.shape[0], -1)
    product: Matrix = np.einsum("ij...,jq->iq...", core, flat)
    return product.reshape(core.shape[0], -1)


def _kept_small(left: Matrix, right: Matrix) -> LowRank:
    if left.shape[1] >= min(left.shape[0], right.shape[1]):
        return LowRank(left @ right)
    return LowRank(left, right)


def effective_rank(singular_values: npt.ArrayLike) -> float:
    """exp(-sum p ln p) with p the singular values over their sum (Roy & Vetterli 2007)."""
    values = np.asarray(singular_values, dtype=np.float64)
    total = values.sum()
    if not total > 0:
        return 0.0
    p = values / total
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


# ---------------------------------------------------------------------------------------------
# The report


def weight_report(
    checkpoints: Sequence[Checkpoint], progress: Callable[[int, int], None] | None = None
) -> WeightReport:
    """Weight-space numbers of checkpoints in training order.

    One module of all checkpoints is in memory at a time. ``progress`` is called with (modules
    done, modules in all). Raises ``UserError`` for files that cannot be read or merged.
    """
    files = [LoraFile.open(checkpoint.path) for checkpoint in checkpoints]
    stems = list(dict.fromkeys(stem for file in files for stem in file.grouped))
    modules: list[list[ModuleWeights]] = [[] for _ in files]
    # products[t][k] = <dW_t, dW_(t-k)>, summed over modules
    products: Matrix = np.zeros((len(files), 3))
    magnitudes = False
    for done, stem in enumerate(stems):
        recent: list[dict[str, LowRank | Kronecker]] = []
        for at, file in enumerate(files):
            forms = {}
            for delta in file.read(stem) if stem in file.grouped else []:
                magnitudes |= delta.magnitude is not None
                form = small_form(delta)
                forms[delta.parameter] = form
                modules[at].append(_measured(delta, form))
            recent = [forms, *recent[:2]]
            for back, earlier in enumerate(recent):
                for name in forms.keys() & earlier.keys():
                    products[at, back] += _inner(forms[name], earlier[name])
        if progress:
            progress(done + 1, len(stems))
    summaries = tuple(
        _summary(checkpoint, tuple(modules[at]), products, at)
        for at, checkpoint in enumerate(checkpoints)
    )
    return WeightReport(summaries, magnitudes)


def _inner(one: LowRank | Kronecker, two: LowRank | Kronecker) -> float:
    if isinstance(one, LowRank) and isinstance(two, LowRank):
        return one.inner(two)
    if isinstance(one, Kronecker) and isinstance(two, Kronecker):
        return one.inner(two)
    return float(np.vdot(one.dense(), two.dense()))


def _measured(delta: ModuleDelta, form: LowRank | Kronecker) -> ModuleWeights:
    values = form.singular_values()
    part, name = lora.split_stem(delta.stem)
    stem = delta.stem + ("" if delta.parameter == "weight" else " (bias)")
    return ModuleWeights(
        stem=stem,
        part=part or "unet",
        block=block_of(part or "unet", name),
        kind=delta.kind,
        rank=delta.rank,
        frobenius=float(np.sqrt(np.square(values).sum())),
        spectral=float(values.max(initial=0.0)),
        effective_rank=effective_rank(values),
    )


_BLOCKS = (
    (re.compile(r"down_blocks[._](\d+)"), "down {}"),
    (re.compile(r"up_blocks[._](\d+)"), "up {}"),
    (re.compile(r"mid_block|middle_block"), "mid"),
    (re.compile(r"single_(?:transformer_|stream_)?blocks[._](\d+)"), "single {}"),
    (re.compile(r"(?:double|double_stream|joint|transformer)_blocks[._](\d+)"), "double {}"),
    (re.compile(r"(noise|context)_refiner[._](\d+)"), "{} refiner {}"),
    (re.compile(r"layers[._](\d+)"), "layer {}"),
    (re.compile(r"encoder[._]block[._](\d+)"), "layer {}"),
)


def block_of(part: str, name: str) -> str:
    """down 0, mid, up 2, double 7, single 11, layer 3, or other; ``name`` as in the file.

    Stability's input_blocks and output_blocks come three to a level in SD 1.x, 2.x and SDXL.
    """
    for pattern, per_level in (
        (r"input_blocks[._](\d+)", "down"),
        (r"output_blocks[._](\d+)", "up"),
    ):
        match = re.match(pattern, name)
        if match:
            number = int(match.group(1))
            if per_level == "down" and number == 0:
                return "other"
            return f"{per_level} {(number - (per_level == 'down')) // 3}"
    for compiled, text in _BLOCKS:
        match = compiled.search(name) if part.startswith("te") else compiled.match(name)
        if match:
            return text.format(*match.groups())
    return "other"


def _summary(
    checkpoint: Checkpoint, modules: tuple[ModuleWeights, ...], products: Matrix, at: int
) -> CheckpointWeights:
    squares = products[:, 0]
    norm = math.sqrt(squares[at])
    growth = cosine = turn = math.nan
    moved = norm
    if at >= 1:
        moved = math.sqrt(max(0.0, squares[at] + squares[at - 1] - 2 * products[at, 1]))
        before = math.sqrt(squares[at - 1])
        growth = norm / before if before else math.nan
        cosine = products[at, 1] / (norm * before) if norm and before else math.nan
        # The movement before: from the checkpoint before last, or from the untrained LoRA.
        two_back = products[at, 2] if at >= 2 else 0.0
        one_back = products[at - 1, 1] if at >= 2 else 0.0
        earlier_square = squares[at - 1] + (squares[at - 2] if at >= 2 else 0.0) - 2 * one_back
        along = products[at, 1] - two_back - squares[at - 1] + one_back
        length = moved * math.sqrt(max(0.0, earlier_square))
        turn = along / length if length else math.nan
    body = [module for module in modules if not module.part.startswith("te")]
    return CheckpointWeights(
        name=checkpoint.name,
        label=checkpoint.label or checkpoint.name,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        frobenius=norm,
        spectral=max((module.spectral for module in modules), default=0.0),
        effective_rank=_weighted_rank(modules),
        shares=_shares((module.part, module.frobenius) for module in modules),
        blocks=_shares((module.block, module.frobenius) for module in body),
        growth=growth,
        moved=moved,
        cosine=cosine,
        turn=turn,
        modules=modules,
    )


def _weighted_rank(modules: Sequence[ModuleWeights]) -> float:
    total = sum(module.frobenius**2 for module in modules)
    if not total:
        return 0.0
    return sum(module.effective_rank * module.frobenius**2 for module in modules) / total


def _shares(norms: Iterable[tuple[str, float]]) -> dict[str, float]:
    """{name: its part of the sum of squares}, names in natural order."""
    squares: dict[str, float] = {}
    for name, norm in norms:
        squares[name] = squares.get(name, 0.0) + norm**2
    total = sum(squares.values())
    order = sorted(squares, key=_block_order)
    return {name: squares[name] / total if total else 0.0 for name in order}


def _block_order(name: str) -> tuple[int, int, str]:
    kinds = [
        "unet", "transformer", "te", "te2", "te3", "te4", "down", "mid", "up", "double", "single",
    ]  # fmt: skip
    kind, _, number = name.partition(" ")
    rank = kinds.index(kind) if kind in kinds else len(kinds)
    return rank, int(number) if number.isdecimal() else 0, name

"""The weight update dW of every adapted module, exactly as its trainer defined it.

``modules`` groups a LoRA file's keys into modules, ``resolve`` finds the parameters of a loaded
diffusers pipeline that they belong to, ``merge`` gives W = W0 + sum of s_i * dW_i from a saved W0.
Nothing is skipped: a key that is not understood or does not fit is a ``UserError`` that names it.

Implemented: LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685), its convolutional form LoCon
with or without Tucker core, LoHa (Hyeon-Woo et al. 2021, https://arxiv.org/abs/2108.06098), LoKr,
full and norm differences as LyCORIS stores them (Yeh et al. 2023,
https://arxiv.org/abs/2309.14859), and DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from generation.errors import UserError
from generation.families import ALL
from generation.families.names import Names, Rows
from generation.loras import inspection as lora
from generation.loras.keys import rank_leaf, update_shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Device: TypeAlias = "torch.device | str"


@dataclass(frozen=True)
class ModuleDelta:
    """The update of one weight (or bias) at strength 1, kept as its small factors.

    ``kind`` is lora, loha, lokr or full. ``factors`` are float32 numpy arrays (or torch tensors,
    after ``to``) under the names of ``lora.split_key``: down [r, in, *k], up [out, r], mid
    [r, r, *k]; w1a [out, r], w1b [r, in * k] and so on; k1 [a, c], k2 [b, d, *k]; diff. ``scale``
    is the effective alpha / rank. ``magnitude`` holds DoRA's m, [out] or, where
    ``magnitude_per_input``, [in]. ``rows`` are the ranges of output rows to take, in order, where
    the file fuses several of the model's matrices into one.
    """

    source: Path
    part: str
    stem: str
    kind: str
    factors: Mapping[str, Any] = field(repr=False)
    scale: float = 1.0
    rank: int | None = None
    alpha: float | None = None
    magnitude: Any = field(default=None, repr=False)
    magnitude_per_input: bool = False
    parameter: str = "weight"
    rows: Rows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored update before ``rows``: [out, in, *kernel], or [out, in * kernel]
        where the factors do not tell the kernel."""
        shapes = {name: tuple(factor.shape) for name, factor in self.factors.items()}
        return update_shape(self.kind, shapes)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the update can be added to a parameter of this shape."""
        own = self.shape
        out = own[0] if self.rows is None else sum(end - begin for begin, end in self.rows)
        if not own or not shape or out != shape[0] or math.prod(own[1:]) != math.prod(shape[1:]):
            return False
        # Kernels must agree where both are told: [out, in * 9] says nothing about 3 x 3.
        return len(own) <= 2 or len(shape) <= 2 or tuple(own[1:]) == tuple(shape[1:])

    def to(self, device: Device) -> ModuleDelta:
        """The same update with its factors as float32 tensors on ``device``."""
        import torch

        def move(value: Any) -> torch.Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=device)

        return replace(
            self,
            factors={name: move(factor) for name, factor in self.factors.items()},
            magnitude=None if self.magnitude is None else move(self.magnitude),
        )

    def matrix(
        self, shape: Sequence[int], device: Device, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """dW at strength 1 as a tensor of ``shape``, without DoRA's renormalisation.

        ``dtype`` (float32 by default) is also what the product is computed in.
        """
        import torch

        kept = dtype or torch.float32
        f = {
            name: torch.as_tensor(factor, device=device).to(kept)
            for name, factor in self.factors.items()
        }
        with _exact_products(device):
            flat = self._product(f)
        if self.rows is not None and not (self.kind == "lora" and "mid" not in f):
            flat = torch.cat([flat[begin:end] for begin, end in self.rows])
        return (flat * self.scale).reshape(tuple(shape))

    def _product(self, f: dict[str, torch.Tensor]) -> torch.Tensor:
        """The unscaled update as [out, in * kernel] (or [out] for a bias)."""
        import torch

        if self.kind == "full":
            return f["diff"].flatten(1) if f["diff"].dim() > 1 else f["diff"]
        if self.kind == "lora":
            up, down = f["up"].flatten(1), f["down"].flatten(1)
            if "mid" in f:
                return torch.einsum("pi,ij...,jq->pq...", up, f["mid"], down).flatten(1)
            if self.rows is not None:
                up = torch.cat([up[begin:end] for begin, end in self.rows])
            return up @ down
        if self.kind == "loha":
            if "t1" in f:
                one = torch.einsum("ij...,ip,jq->pq...", f["t1"], f["w1a"], f["w1b"])
                two = torch.einsum("ij...,ip,jq->pq...", f["t2"], f["w2a"], f["w2b"])
                return (one * two).flatten(1)
            return (f["w1a"] @ f["w1b"]) * (f["w2a"] @ f["w2b"])
        first = f["k1"] if "k1" in f else f["k1a"] @ f["k1b"]
        if "k2" in f:
            second = f["k2"].flatten(1)
        elif "kt2" in f:
            second = torch.einsum("ij...,ip,jq->pq...", f["kt2"], f["k2a"], f["k2b"]).flatten(1)
        else:
            second = f["k2a"] @ f["k2b"]
        return torch.kron(first, second)

    def update(self, base: torch.Tensor) -> torch.Tensor:
        """W(1) - W0 for this W0, in W0's dtype: dW, or with DoRA m * V / |V| - W0, V = W0 + dW.

        The norm |V| is taken per output row (peft, and LyCORIS with ``wd_on_out``) or per input
        column (LyCORIS without), as the stored magnitude's shape says.
        """
        import torch

        change = self.matrix(base.shape, base.device, base.dtype)
        if self.magnitude is None:
            return change
        axis = 1 if self.magnitude_per_input else 0
        others = [dim for dim in range(base.dim()) if dim != axis]
        magnitude = torch.as_tensor(self.magnitude, device=base.device).to(base.dtype)
        if self.rows is not None:
            magnitude = torch.cat([magnitude[begin:end] for begin, end in self.rows])
        magnitude = magnitude.reshape([-1 if dim == axis else 1 for dim in range(base.dim())])
        moved = base + change
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        # A row of zeros has no direction, whatever its magnitude.
        norm = norm.clamp_min(torch.finfo(base.dtype).tiny)
        return torch.sub(moved * (magnitude / norm), base)

    def merge(self, base: torch.Tensor, strength: float) -> torch.Tensor:
        """W at a strength, from this one update; see the function ``merge``."""
        return merge(base, [(self, strength)])


def merge(base: torch.Tensor, updates: Iterable[tuple[ModuleDelta, float]]) -> torch.Tensor:
    """W = W0 + sum of s_i * (W_i(1) - W0), a new tensor in W0's dtype (float32 is meant).

    For LoRA and its linear kin W_i(1) - W0 is dW. DoRA's own paper defines no strength; here, as
    in A1111 and ComfyUI, strength s moves along the line from W0 to the trained weight, so that 0
    is the base, 1 is what was trained, and 0.5 lies half way. Strength 0 returns W0's very bits.
    """
    result = base.clone()
    for delta, strength in updates:
        if strength:
            result += delta.update(base) * strength
    return result


@contextmanager
def _exact_products(device: Device) -> Iterator[None]:
    """No TF32 while dW is computed: its 10-bit mantissa would cost 1e-3 of the update."""
    import torch

    if torch.device(device).type != "cuda":
        yield
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


# ---------------------------------------------------------------------------------------------
# From a file to modules


@dataclass(frozen=True)
class LoraFile:
    """An opened LoRA file whose modules are read one at a time."""

    header: lora.Header
    grouped: Mapping[str, Mapping[str, str]] = field(repr=False)
    scales: lora.AdapterScales = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> LoraFile:
        """Check the header and the keys; no factor is read. Raises ``UserError`` as ``modules``."""
        info = lora.inspect(path)
        if info.unsupported:
            raise UserError(
                f"{lora.one_line(str(info.path))} holds {', '.join(info.unsupported)}, which "
                "cannot be applied; use a LoRA, LoCon, LoHa, LoKr, DoRA or full-difference file."
            )
        header = lora.read_header(path)
        grouped, _ = lora.group_keys(header.tensors)  # keys of no module are in info.unsupported
        return cls(header, grouped, lora.AdapterScales.of(header))

    def read(self, stem: str) -> list[ModuleDelta]:
        """The updates of one module: of its weight, of its bias, or of both."""
        keys = self.grouped[stem]
        tensors = lora.read_tensors(self.header.path, keys.values(), header=self.header)
        arrays = {leaf: tensors[key] for leaf, key in keys.items()}
        return list(_module(self.header.path, stem, arrays, self.scales))

    def outline(self, stem: str) -> list[ModuleDelta]:
        """As `read`, but zeros that take no memory stand for the factors."""
        import numpy as np

        shapes = {leaf: self.header.tensors[key].shape for leaf, key in self.grouped[stem].items()}
        arrays = {leaf: np.broadcast_to(np.float32(0), shape) for leaf, shape in shapes.items()}
        return list(_module(self.header.path, stem, arrays, self.scales))


def modules(path: str | Path) -> dict[str, ModuleDelta]:
    """Every update of a LoRA file, by its key stem (" (bias)" is added for a bias).

    Raises ``UserError`` for files that ``lora.inspect`` refuses, for kinds that cannot be merged
    (OFT, GLoRA, IA3, bundled embeddings), for keys of no known kind, for NaN and infinity, and
    for factors that do not fit each other; the sentence names the key.
    """
    file = LoraFile.open(path)
    return {
        stem + ("" if delta.parameter == "weight" else " (bias)"): delta
        for stem in file.grouped
        for delta in file.read(stem)
    }


def outlines(path: str | Path) -> dict[str, ModuleDelta]:
    """As `modules`, but of zeros in the shapes that the header tells; no factor is read."""
    file = LoraFile.open(path)
    return {
        stem + ("" if delta.parameter == "weight" else " (bias)"): delta
        for stem in file.grouped
        for delta in file.outline(stem)
    }


def is_low_rank(path: str | Path) -> bool:
    """Whether all that the file changes outside of text encoders is dW = s up down, nothing else.

    Only then the diffusers renderer can add it while rendering. Raises ``UserError`` as
    ``modules``.
    """
    return all(
        leaves.keys() <= {"down", "up", "alpha"} or lora.split_stem(stem)[0].startswith("te")
        for stem, leaves in LoraFile.open(path).grouped.items()
    )


_FACTOR_NAMES = {
    "lora": ("down", "up", "mid"),
    "loha": ("w1a", "w1b", "w2a", "w2b", "t1", "t2"),
    "lokr": ("k1", "k1a", "k1b", "k2", "k2a", "k2b", "kt2"),
}
_EXTRAS = frozenset({"alpha", "dora_scale", "magnitude", "diff_b", "up_bias"})


def _module(
    source: Path, stem: str, arrays: dict[str, npt.NDArray[np.float32]], scales: lora.AdapterScales
) -> Iterator[ModuleDelta]:
    part = lora.split_stem(stem)[0]
    kind = lora.algorithm(arrays)
    name = f"{lora.one_line(str(source))}: the module {lora.one_line(stem)[:120]}"
    if kind in {"full", "norm"}:
        extra = set(arrays) - {"diff", "diff_b", "w_norm", "b_norm", "alpha"}
        if extra:
            raise UserError(f"{name} mixes kinds of update ({', '.join(sorted(extra))}).")
        # LyCORIS' full and norm modules have no rank, so an alpha beside them scales nothing.
        for leaf, parameter in (
            ("diff", "weight"),
            ("w_norm", "weight"),
            ("diff_b", "bias"),
            ("b_norm", "bias"),
        ):
            if leaf in arrays:
                factors = {"diff": arrays[leaf]}
                yield ModuleDelta(source, part, stem, "full", factors, parameter=parameter)
        return
    if kind not in _FACTOR_NAMES:
        raise UserError(f"{name} is incomplete: it holds only {', '.join(sorted(arrays))}.")
    factors = {leaf: arrays[leaf] for leaf in _FACTOR_NAMES[kind] if leaf in arrays}
    extra = set(arrays) - set(factors) - _EXTRAS
    if extra:
        raise UserError(f"{name} mixes kinds of update ({', '.join(sorted(extra))}).")
    shapes = {leaf: factor.shape for leaf, factor in factors.items()}
    problem = _factor_problem(kind, shapes)
    if problem:
        raise UserError(f"{name} is damaged: {problem}.")
    decomposed = rank_leaf(factors)
    rank = int(shapes[decomposed][0]) if decomposed else None
    stored = float(arrays["alpha"].reshape(-1)[0]) if "alpha" in arrays else None
    alpha, scale = scales.resolve(stem, rank, stored)
    delta = ModuleDelta(source, part, stem, kind, factors, scale, rank, alpha)
    yield _with_magnitude(delta, arrays, name)
    if "up_bias" in arrays:  # peft's lora_bias: scaled with the product it belongs to
        bias = {"diff": arrays["up_bias"]}
        yield ModuleDelta(source, part, stem, "full", bias, scale, parameter="bias")
    if "diff_b" in arrays:
        bias = {"diff": arrays["diff_b"]}
        yield ModuleDelta(source, part, stem, "full", bias, parameter="bias")


Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"


def _factor_problem(kind: str, shapes: Shapes) -> str | None:
    """What is wrong with the factors' presence or shapes, or None."""
    if any(0 in shape or not 2 <= len(shape) <= 5 for shape in shapes.values()):
        return "a factor is empty or no matrix"
    return {"lora": _lora_problem, "loha": _loha_problem, "lokr": _lokr_problem}[kind](shapes)


def _lora_problem(f: Shapes) -> str | None:
    if not {"down", "up"} <= set(f):
        return "it has " + ("no lora_up" if "up" not in f else "no lora_down")
    up, down = f["up"], f["down"]
    inner = f["mid"][:2] if "mid" in f else (down[0], down[0])
    if math.prod(up[2:]) != 1 or ("mid" in f and math.prod(down[2:]) != 1):
        return "its lora_up (or a Tucker lora_down) is no 1x1 convolution"
    return None if (up[1], down[0]) == inner else f"ranks {up[1]} and {down[0]} do not match"


def _loha_problem(f: Shapes) -> str | None:
    if not {"w1a", "w1b", "w2a", "w2b"} <= set(f) or ("t1" in f) != ("t2" in f):
        return "a hada factor is missing"
    axis = 0 if "t1" in f else 1
    for half in ("1", "2"):
        a, b = f[f"w{half}a"], f[f"w{half}b"]
        core = f.get(f"t{half}", (b[0], b[0]))[:2]
        if len(a) != 2 or len(b) != 2 or (a[axis], b[0]) != core:
            return "its hada ranks do not match"
        if a[1 - axis] != f["w1a"][1 - axis] or b[1] != f["w1b"][1]:
            return "its two hada halves differ in size"
    return None if "t1" not in f or f["t1"][2:] == f["t2"][2:] else "its cores differ"


def _lokr_problem(f: Shapes) -> str | None:
    for half in ("k1", "k2"):
        pair = {f"{half}a", f"{half}b"} & set(f)
        if (half in f) == bool(pair) or len(pair) == 1:
            return f"its factor lokr_w{half[1]} is missing or doubled"
        if half in f:
            continue
        a, b = f[f"{half}a"], f[f"{half}b"]
        tucker = half == "k2" and "kt2" in f
        if len(a) != 2 or len(b) != 2:
            return "a lokr factor is no matrix"
        core = f["kt2"][:2] if tucker else (b[0], b[0])
        if (a[0] if tucker else a[1], b[0]) != core:
            return "its lokr ranks do not match"
    if "kt2" in f and "k2" in f:
        return "it has both lokr_w2 and lokr_t2"
    return None if len(f.get("k1", (1, 1))) == 2 else "lokr_w1 is no matrix"


def _with_magnitude(
    delta: ModuleDelta, arrays: Mapping[str, npt.NDArray[np.float32]], name: str
) -> ModuleDelta:
    if "dora_scale" not in arrays and "magnitude" not in arrays:
        return delta
    stored = arrays.get("dora_scale", arrays.get("magnitude"))
    assert stored is not None
    out = delta.shape[0]
    columns = delta.shape[1]
    shape = stored.shape
    if stored.size == out and ("magnitude" in arrays or shape[:1] == (out,)):
        return replace(delta, magnitude=stored.reshape(-1))
    # [1, in, 1, 1]; the factors of a convolution may tell only in * kernel.
    if len(shape) > 1 and shape[0] == 1 and stored.size and columns % stored.size == 0:
        return replace(delta, magnitude=stored.reshape(-1), magnitude_per_input=True)
    raise UserError(
        f"{name} is damaged: its DoRA magnitudes have shape {list(shape)}, its update "
        f"{list(delta.shape)}."
    )


# ---------------------------------------------------------------------------------------------
# From modules to the parameters of a pipeline


Targets = Mapping[str, Mapping[str, Sequence[int]]]


def resolve(
    deltas: Mapping[str, ModuleDelta], targets: Targets
) -> dict[tuple[str, str], ModuleDelta]:
    """Find the parameter that each update belongs to: {(part, parameter name): update}.

    ``targets`` lists the loaded model's parameters: {part: {name: shape}} with part one of unet,
    transformer, te to te4 and names as ``named_parameters`` gives them. Understood spellings:
    diffusers' own names with dots or underscores, Stability's (input_blocks, middle_block,
    output_blocks; joint_blocks) and Black Forest Labs' (double_blocks, single_blocks), whose
    fused q, k and v become one update each. Raises ``UserError`` naming the first key that finds
    no parameter or one of another shape.
    """
    index = {part: _names(part, parameters) for part, parameters in targets.items()}
    found: dict[tuple[str, str], ModuleDelta] = {}
    for delta in deltas.values():
        for part, parameter, piece in _place(delta, index):
            if (part, parameter) in found:
                raise UserError(
                    f"{lora.one_line(str(delta.source))} updates {parameter} twice, in "
                    f"{found[part, parameter].stem} and {delta.stem}."
                )
            found[part, parameter] = piece
    return found


def _names(part: str, parameters: Mapping[str, Sequence[int]]) -> Names:
    """The spellings of a part's modules in every family that is rendered."""
    if part.startswith("te"):
        return Names.of(parameters)
    return Names.of(
        parameters,
        list(dict.fromkeys(one.aliases for one in ALL.values() if one.aliases and one.rendering)),
    )


def _place(delta: ModuleDelta, index: Mapping[str, Names]) -> list[tuple[str, str, ModuleDelta]]:
    stated, name = lora.split_stem(delta.stem)
    parts = _possible_parts(stated, index)
    misfits = []
    hits = []
    for part in parts:
        pieces = index[part].find(name, delta.parameter)
        if not pieces:
            continue
        placed = _cut(delta, part, pieces)
        if placed is None:
            misfits.append((part, pieces))
        else:
            hits.append(placed)
    if len(hits) == 1 or (hits and stated):
        return hits[0]
    where = f"{lora.one_line(str(delta.source))}: {lora.one_line(delta.stem)[:160]}"
    if hits:
        raise UserError(f"{where} could belong to either text encoder; its name does not say.")
    made_for = _made_for(delta.source)
    if misfits:
        part, pieces = misfits[0]
        want = " + ".join(str(list(shape)) for _, shape, _ in pieces)
        raise UserError(
            f"{where} updates a weight of shape {list(delta.shape)}, but this model's "
            f"{pieces[0][0]} is {want}{made_for}."
        )
    missing = stated and not parts
    raise UserError(
        f"{where} finds "
        + (f"no {lora.PART_NAMES[stated]}" if missing else "no module of its name")
        + f" in this model{made_for}."
    )


def _made_for(source: Path) -> str:
    """What to try instead, from what the file says about its base."""
    try:
        made_for = lora.inspect(source).family_words
    except UserError:
        made_for = ""
    if not made_for:
        return "; it was made for another base model"
    return f"; the file seems to be made for {made_for}"


def _possible_parts(stated: str, index: Mapping[str, Names]) -> list[str]:
    if not stated:
        return list(index)
    if stated in {"unet", "transformer"}:
        return [part for part in ("unet", "transformer") if part in index]
    if stated in index:
        return [stated]
    # Flux keeps T5 as its second encoder, and files call it the third.
    return ["te2"] if stated == "te3" and "te2" in index else []


def _cut(
    delta: ModuleDelta, part: str, pieces: Sequence[tuple[str, Sequence[int], Rows | None]]
) -> list[tuple[str, str, ModuleDelta]] | None:
    """One update per target; None where the shapes do not fit."""
    total = sum(shape[0] if shape else 0 for _, shape, _ in pieces)
    if len(pieces) > 1 and (not delta.shape or delta.shape[0] != total):
        return None
    placed = []
    for parameter, shape, rows in pieces:
        piece = replace(delta, part=part, rows=rows)
        if not piece.fits(shape):
            return None
        if piece.magnitude_per_input and (rows is not None or len(shape) < 2):
            return None
        if piece.magnitude_per_input and piece.magnitude.size != shape[1]:
            return None
        placed.append((part, parameter, piece))
    return placed

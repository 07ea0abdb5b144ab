"""A Smartpix's parameters as signals: a depth, a region, and further streams as JSON."""

import msgspec
import numpy as np

from lima2_ophyd._parameters import Parameters
from lima2_receivers.detectors.smartpix.descriptors import Descriptor
from lima2_receivers.detectors.smartpix.params import SmartpixParams


async def test_what_is_set_is_what_the_plan_has():
    signals = Parameters(SmartpixParams, name="detector")
    await signals.connect(mock=False)
    assert msgspec.convert(await signals.values(), SmartpixParams) == SmartpixParams()
    await signals.depth.set("6")
    await signals.every.set(3)
    await signals.roi.set(np.array([1, 2, 3, 4]))
    await signals.streams.set('[{"name": "fast", "roi": [0, 0, 8, 8], "destinations": [1]}]')
    found = msgspec.convert(await signals.values(), SmartpixParams)
    assert found == SmartpixParams(6, 0, (1, 2, 3, 4), 3, (Descriptor("fast", roi=(0, 0, 8, 8), destinations=(1,)),))

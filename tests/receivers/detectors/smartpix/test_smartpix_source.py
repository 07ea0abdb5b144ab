"""Which frames a Smartpix's transfers are."""

import msgspec

from lima2_receivers.detectors.smartpix.descriptors import Descriptor
from lima2_receivers.detectors.smartpix.params import SmartpixParams, SmartpixSettings, descriptors, frame_spec
from lima2_receivers.detectors.smartpix.source import SmartpixSource
from lima2_receivers.testing_transfers import TransferSourceContract
from lima2_receivers.transfers import Completion

SETTINGS = SmartpixSettings("ipc:///c", "/f", chips=(1, 1))


class SmartpixContract(TransferSourceContract):
    params = SmartpixParams()

    def spec(self):
        return frame_spec(SETTINGS, descriptors(self.params)[0], self.params.depth)

    def make_source(self, series):
        return SmartpixSource(self.params, self.spec(), series)

    def completion(self, series, index):
        return Completion(index + 1, series, index * self.params.every, 0, index % 4, self.spec().nbytes, 1.0)

    def others(self, series):
        good = self.completion(series, 0)
        return {
            stream.name: msgspec.structs.replace(good, channel=channel, nbytes=17)
            for channel, stream in enumerate(self.params.streams, 1)
        }

    def malformed(self, series):
        good = self.completion(series, 0)
        between = {"between": msgspec.structs.replace(good, frame=1)} if self.params.every > 1 else {}
        return {
            "size": msgspec.structs.replace(good, nbytes=good.nbytes // 2),
            "channel": msgspec.structs.replace(good, channel=1 + len(self.params.streams)),
            **between,
        }


class TestWhole(SmartpixContract):
    pass


class TestRoi(SmartpixContract):
    params = SmartpixParams(6, 0, (1, 2, 3, 4), 7, (Descriptor("a"), Descriptor("b", every=2)))

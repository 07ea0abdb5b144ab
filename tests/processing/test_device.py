import numpy as np
import pytest

from lima2_processing.device import Device, open_device
from lima2_processing.errors import DeviceError, KernelBuildError


def test_name_says_device_and_version(device):
    assert "(" in device.name
    assert any(character.isdigit() for character in device.name.rpartition("(")[2])


def test_part_of_a_name_is_enough_in_any_case(device):
    part = device.name[:7].upper()
    with open_device(part) as again:
        assert again.name == device.name


def test_no_such_device_lists_what_there_is(device):
    with pytest.raises(DeviceError, match=r"contains 'no such'.*found: .+"):
        open_device("no such")


def test_no_device_at_all(monkeypatch):
    monkeypatch.setattr("lima2_processing.device._devices", list)
    with pytest.raises(DeviceError, match="found: none"):
        open_device()


class _Fake:
    def __init__(self, platform, version, is_gpu=False):
        self.name = f"{platform} {version}"
        self.platform = self if platform is None else _Fake(None, version)
        self.platform.name, self.platform.version = str(platform), f"OpenCL 3.0 {platform} {version} Linux"
        self.type = 4 if is_gpu else 2


@pytest.mark.parametrize("turn", [1, -1])
def test_gpu_first_then_newest(monkeypatch, turn):
    old, new, gpu = _Fake("PoCL", "3.0-rc2"), _Fake("PoCL", "10.1"), _Fake("CUDA", "12.2", is_gpu=True)
    monkeypatch.setattr("lima2_processing.device.Device", lambda chosen, many_items: chosen)
    for found, best in (([old, new], new), ([old, gpu, new], gpu), ([_Fake("PoCL", "3.1"), old], None)):
        monkeypatch.setattr("lima2_processing.device._devices", lambda found=found: found[::turn])
        assert open_device() is (best or found[0])


def test_kernel_that_does_not_compile(device, tmp_path):
    wrong = tmp_path / "wrong.cl"
    wrong.write_text("kernel void f(global float *a) { a[0] = no_such_function(); }")
    with pytest.raises(KernelBuildError, match=r"(?s)wrong\.cl for .*no_such_function"):
        device.build(wrong)


def test_kernels_are_built_once_for_each_set_of_constants(device, tmp_path):
    source = tmp_path / "answer.cl"
    source.write_text("kernel void answer(global float *a) { a[get_global_id(0)] = ANSWER; }")
    program = device.build(source, {"ANSWER": 42})
    assert device.build(source, {"ANSWER": 42}) is program
    assert device.build(source, {"ANSWER": 43}) is not program


def test_upload_and_download(device, download):
    data = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(download(device.upload(data), 10), data)


def test_no_room(device):
    with pytest.raises(DeviceError, match="no room for"):
        device.allocate(1 << 62)


def test_closing_twice_is_allowed(device):
    again = Device(device.context.devices[0])
    again.close()
    again.close()


@pytest.mark.parametrize(("many_items", "chunk", "items"), [(False, 100, 11), (True, 8, 128)])
def test_work_is_cut_up_as_the_device_likes_it(many_items, chunk, items):
    with open_device(many_items=many_items) as device:
        cut = device.cut(1001, 100, 8)
        assert (cut.chunk, cut.items) == (chunk, items)
        assert cut.items * cut.chunk >= 1001
        assert cut.launch(3) == ((items, 3), (cut.group, 1))
        assert items % cut.group == 0

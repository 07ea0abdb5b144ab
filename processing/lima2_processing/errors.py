"""Errors of the compute floor."""


class ProcessingError(Exception):
    """Base of every error that this package raises on purpose."""


class ParameterError(ProcessingError):
    """A parameter is out of range or does not fit the frames or the calibration.

    :param path: where in the plan, such as ``pipeline.params.cutoff_pick``.
    :param got: what was given.
    :param expected: what is allowed.
    """

    def __init__(self, path: str, got: object, expected: str) -> None:
        super().__init__(f"{path}: got {got!r}, expected {expected}")
        self.path = path


class DeviceError(ProcessingError):
    """No OpenCL device fits, or the device failed; the message lists what was found."""


class DeviceMemoryError(DeviceError):
    """The device has no room for a buffer."""


class KernelBuildError(ProcessingError):
    """An OpenCL kernel did not compile; the message holds the build log."""

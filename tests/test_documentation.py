"""The documentation names what is there: links lead somewhere, configurations load, no parameter is missing."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.pipelines.smx_params import SmxParams
from lima2_receivers import config, plan
from lima2_receivers.detectors.eiger2.params import Eiger2Params, Eiger2Settings
from lima2_receivers.detectors.jungfrau.params import JungfrauParams, JungfrauSettings
from lima2_receivers.detectors.jungfraujoch.params import JungfraujochParams, JungfraujochSettings
from lima2_receivers.detectors.reader.params import ReaderSettings
from lima2_receivers.detectors.simulator.params import SimulatorParams, SimulatorSettings
from lima2_receivers.detectors.smartpix.descriptors import Descriptor
from lima2_receivers.detectors.smartpix.params import SmartpixParams, SmartpixSettings
from lima2_receivers.errors import _KINDS
from lima2_receivers.ledger import FrameStatus

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "receivers").rglob("*.md")])
CONFIGURATION = (
    config.Config,
    config.DetectorConfig,
    config.ConductorConfig,
    config.ReceiverConfig,
    config.IngestConfig,
    config.RingConfig,
    config.OpenCLConfig,
    config.SavingConfig,
    config.DeadlineConfig,
    SimulatorSettings,
    ReaderSettings,
    Eiger2Settings,
    JungfrauSettings,
    SmartpixSettings,
    JungfraujochSettings,
)
PARAMETERS = (
    plan.AcquisitionParams,
    plan.SavingParams,
    plan.StreamSaving,
    SmxParams,
    CalibrationFile,
    SimulatorParams,
    Eiger2Params,
    JungfrauParams,
    SmartpixParams,
    Descriptor,
    JungfraujochParams,
)


def identify(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_every_page_is_linked(page):
    if not page.is_relative_to(DOCS) or page.name == "index.md":
        return
    others = "".join(other.read_text() for other in PAGES if other != page)
    assert page.name in others


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_whole_configurations_load(page, tmp_path):
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        if "[conductor]" in block:
            path = tmp_path / "site.toml"
            path.write_text(block)
            found = config.load_config(path)
            if folder := str(found.detector.settings.get("folder", "")):  # a simulated detector puts calibration there
                assert any(Path(folder).is_relative_to(root) for root in found.calibration_roots), folder


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, "configuration") for kind in CONFIGURATION] + [(kind, "parameters") for kind in PARAMETERS],
)
def test_no_field_is_missing(kind, name):
    text = (DOCS / "reference" / f"{name}.md").read_text()
    for field in msgspec.structs.fields(kind):
        assert f"| `{field.name}` |" in text, f"{name}.md does not have {kind.__name__}.{field.name}"


def test_the_numbers_of_statuses_and_errors_are_those_of_the_code():
    files = (DOCS / "reference" / "files.md").read_text()
    for status in FrameStatus:
        assert f"| {status.value} | {status.name.lower()} |" in files
    messages = (DOCS / "reference" / "messages.md").read_text()
    for kind in _KINDS:
        assert f"| {kind.code} | `{kind.__name__}` |" in messages

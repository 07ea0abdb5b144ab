"""Configuration files: what is refused, and that the message says where."""

import re
from pathlib import Path

import msgspec
import pytest

from lima2_receivers.config import Config, DetectorConfig, SecurityConfig, check_config, detector_settings, load_config
from lima2_receivers.errors import ConfigError
from lima2_receivers.ingest.daemon import IngestDaemon
from lima2_receivers.plugins import check_streams, dispatch_of
from lima2_receivers.topology import Dispatch

GOOD = """
[detector]
plugin = "simulator"
settings = { control = "ipc:///run/lima2/simulator", folder = "/data" }

[conductor]
commands = "ipc:///run/lima2/commands"
state = "ipc:///run/lima2/state"

[[receivers]]
commands = "ipc:///run/lima2/receiver0"
data = "tcp://127.0.0.1:5550"

[[receivers]]
commands = "ipc:///run/lima2/receiver1"
data = "tcp://127.0.0.1:5551"
ring = { slots = 8 }

[saving]
roots = ["/data"]
"""
EXAMPLES = sorted((Path(__file__).parents[2] / "receivers" / "examples").glob("*.toml"))


@pytest.fixture
def load(tmp_path):
    """Load the good configuration with one text replaced by another."""

    def load(old: str = "", new: str = "", /, text: str = GOOD) -> Config:
        assert old in text
        path = tmp_path / "detector.toml"
        path.write_text(text.replace(old, new, 1) if old else text)
        return load_config(path)

    return load


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    control: str
    folder: str = "/"
    size: int = 1


def test_what_is_not_given_has_its_default(load):
    config = load()
    assert [receiver.ring.slots for receiver in config.receivers] == [16, 8]
    assert config.deadlines.command == 5
    assert config.security == SecurityConfig(keys="", insecure=False, unauthenticated_data=False)
    assert config.calibration_roots == ("/data",)


def test_every_endpoint_has_its_place(load):
    assert load().endpoints() == {
        "conductor.commands": "ipc:///run/lima2/commands",
        "conductor.state": "ipc:///run/lima2/state",
        "receivers[0].commands": "ipc:///run/lima2/receiver0",
        "receivers[0].data": "tcp://127.0.0.1:5550",
        "receivers[1].commands": "ipc:///run/lima2/receiver1",
        "receivers[1].data": "tcp://127.0.0.1:5551",
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[saving]", "[savings]", r"unknown field `savings`|missing required field `saving`"),
        ("[saving]", "[saving]\nflush_perod = 1", r"unknown field `flush_perod` - at `\$\.saving`"),
        ("slots = 8", "slot = 8", r"unknown field `slot` - at `\$\.receivers\[1\]\.ring`"),
        ("slots = 8", "slots = 1", r">= 2 - at `\$\.receivers\[1\]\.ring\.slots`"),
        ("slots = 8", 'slots = "many"', r"Expected `int`, got `str` - at `\$\.receivers\[1\]\.ring\.slots`"),
        ('plugin = "simulator"', "", r"missing required field `plugin` - at `\$\.detector`"),
        ('roots = ["/data"]', "roots = []", r"length >= 1 - at `\$\.saving\.roots`"),
        ('roots = ["/data"]', 'roots = ["/data", "data"]', r"saving\.roots: got 'data', expected an absolute folder"),
        ("[saving]", '[security]\nkeys = "keys"\n[saving]', r"security\.keys: got 'keys', expected an absolute folder"),
        ("[saving]", '[calibration]\nroots = ["."]\n[saving]', r"calibration\.roots: got '\.', expected an absolute"),
        ("[saving]", "[saving\n", r"(?i)expected|invalid"),
    ],
)
def test_what_is_misspelt_or_out_of_range_is_refused_with_its_place(load, tmp_path, old, new, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load(old, new)
    assert str(caught.value).startswith(f"configuration {tmp_path / 'detector.toml'}: ")


def test_a_configuration_without_receivers_is_refused(load):
    head, _, rest = GOOD.partition("[[receivers]]")
    with pytest.raises(ConfigError, match="receivers"):
        load(text=f"receivers = []\n{head}{rest[rest.index('[saving]') :]}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=rf"configuration {tmp_path}/none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "noise.toml").write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(ConfigError, match=r"configuration .*noise\.toml: "):
        load_config(tmp_path / "noise.toml")


@pytest.mark.parametrize(
    "endpoint",
    [
        "ipc://run/relative",
        "ipc://",
        "ipc:///" + "d" * 107,
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://:5550",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:5²",
        "udp://127.0.0.1",
        "rashpa://name",
        "rashpa:///",
        "rashpa:///../name",
        "rashpa:///.name",
        "rashpa:///a b",
        "rashpa:///a\\n",
        "rashpa:///" + "a" * 101,
        "inproc://x",
        "127.0.0.1:5550",
        "",
    ],
)
def test_a_malformed_endpoint_is_refused(load, endpoint):
    with pytest.raises(ConfigError, match=r"receivers\[1\]\.data: got .*, expected "):
        load("tcp://127.0.0.1:5551", endpoint)


def test_the_name_of_a_ring_is_allowed_for_data_alone(load):
    assert load("tcp://127.0.0.1:5551", "rashpa:///" + "a" * 100)
    with pytest.raises(ConfigError, match=r"conductor\.state: got 'rashpa:///a', expected ipc://PATH or tcp://"):
        load("ipc:///run/lima2/state", "rashpa:///a")


def test_the_longest_path_that_a_socket_takes_is_allowed(load):
    assert load("/run/lima2/state", "/" + "d" * 106)
    with pytest.raises(ConfigError, match=r"conductor\.state: .* at most 107 bytes"):
        load("/run/lima2/state", "/" + "d" * 105 + "é")


LOOPBACK = ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"]
NETWORK = ["0.0.0.0", "*", "10.1.1.1", "id00", "[::]", "localhost.example.org", "127.example.org", "127.0.0.1.example"]
OWN = {  # our own endpoints
    "conductor.commands": "ipc:///run/lima2/commands",
    "conductor.state": "ipc:///run/lima2/state",
    "receivers[1].commands": "ipc:///run/lima2/receiver1",
}
KEYS = '[security]\nkeys = "/etc/lima2/keys"\n'
INSECURE = "[security]\ninsecure = true\n"


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_detector_may_send_to_loopback(load, host):
    assert load("tcp://127.0.0.1:5551", f"tcp://{host}:5551")


@pytest.mark.parametrize("host", NETWORK)
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_detector_that_sends_over_a_network_needs_a_word(load, host, scheme):
    other = GOOD.replace("tcp://127.0.0.1:5551", f"{scheme}://{host}:5551")
    for words in ("", KEYS, INSECURE):
        with pytest.raises(
            ConfigError, match=r"receivers\[1\]\.data: .* can be reached .* no detector's stream has keys"
        ):
            load(text=other + words)
    assert load(text=other + "[security]\nunauthenticated_data = true\n")


@pytest.mark.parametrize("place", OWN)
@pytest.mark.parametrize("host", LOOPBACK)
def test_our_own_endpoints_on_loopback_need_keys_or_a_word(load, place, host):
    other = GOOD.replace(OWN[place], f"tcp://{host}:5560")
    for words in ("", "[security]\nunauthenticated_data = true\n"):
        with pytest.raises(ConfigError, match=rf"{re.escape(place)}: .* every user of this host, .*insecure = true"):
            load(text=other + words)
    assert load(text=other + INSECURE)
    assert load(text=other + KEYS)


@pytest.mark.parametrize("place", OWN)
@pytest.mark.parametrize("host", NETWORK)
def test_our_own_endpoints_that_others_can_reach_need_keys_and_no_word_helps(load, place, host):
    other = GOOD.replace(OWN[place], f"tcp://{host}:5560")
    for words in ("", INSECURE, INSECURE + "unauthenticated_data = true\n"):
        with pytest.raises(ConfigError, match=rf"{re.escape(place)}: .* from other hosts, expected `security\.keys`"):
            load(text=other + words)
    assert load(text=other + KEYS)


@pytest.mark.parametrize("old", ["ipc:///run/lima2/state", "ipc:///run/lima2/receiver1"])
def test_an_endpoint_that_is_used_twice_is_refused(load, old):
    with pytest.raises(ConfigError, match=r"ipc:///run/lima2/commands is used by conductor\.commands already"):
        load(old, "ipc:///run/lima2/commands")


def test_a_configuration_made_in_a_program_is_checked_alike(load):
    config = load()
    with pytest.raises(ConfigError, match=r"receivers\[1\]\.commands: .* is used by receivers\[0\]\.commands already"):
        check_config(msgspec.structs.replace(config, receivers=config.receivers[:1] * 2))


def test_receivers_share_a_stream_only_where_they_connect_to_it(load):
    config = load()
    other = msgspec.structs.replace(config.receivers[0], commands="ipc:///run/lima2/other")
    shared = msgspec.structs.replace(config, receivers=(config.receivers[0], other))
    check_config(shared)
    with pytest.raises(ConfigError, match=r"receivers\[1\]\.data: .* is used by receivers\[0\]\.data already"):
        check_streams(shared)
    check_streams(msgspec.structs.replace(shared, detector=DetectorConfig("eiger2")))


@pytest.mark.parametrize(
    ("plugin", "dispatch", "n_receivers", "expected"),
    [
        ("simulator", None, 2, "round_robin"),
        ("simulator", "dynamic", 2, "dynamic"),
        ("simulator", "dynamic", 1, "round_robin"),
        ("eiger2", None, 2, "dynamic"),
        ("jungfrau", None, 2, "round_robin"),
    ],
)
def test_the_detector_says_how_frames_spread(load, plugin, dispatch, n_receivers, expected):
    config = load()
    made = msgspec.structs.replace(
        config,
        detector=DetectorConfig(plugin),
        dispatch=dispatch and Dispatch(dispatch),
        receivers=config.receivers[:1] * n_receivers,
    )
    assert dispatch_of(made) == expected


def test_a_dispatch_that_the_detector_has_not_is_refused(load):
    made = msgspec.structs.replace(load(), detector=DetectorConfig("jungfrau"), dispatch=Dispatch.DYNAMIC)
    with pytest.raises(ConfigError, match="dispatch: got dynamic, the detector plugin jungfrau has round_robin"):
        dispatch_of(made)


def test_the_plugin_reads_its_own_table(load):
    assert detector_settings(load(), Settings) == Settings("ipc:///run/lima2/simulator", "/data")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("contrl", r"unknown field `contrl`|missing required field `control`"),
        ("size = 'big', control", r"Expected `int`, got `str` - at `\$\.size`"),
        ("color = 'red', control", r"unknown field `color`"),
    ],
)
def test_a_wrong_table_of_a_plugin_is_refused(load, new, said):
    config = load("control", new)
    with pytest.raises(ConfigError, match=rf"detector\.settings of plugin simulator: .*({said})"):
        detector_settings(config, Settings)


@pytest.mark.skipif(not EXAMPLES, reason="there are no examples")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_can_be_used(path):
    assert load_config(path).receivers


WITH_INGEST = GOOD.replace('data = "tcp://127.0.0.1:5550"\n', "").replace('data = "tcp://127.0.0.1:5551"\n', "") + (
    '[ingest]\ncommands = "ipc:///run/lima2/ingest"\ndata = "tcp://127.0.0.1:5550"\nhandover = "ipc:///run/lima2/hand"\n'
)


def test_with_an_ingest_all_frames_go_there_and_from_it_to_any_receiver(load):
    config = load(text=WITH_INGEST)
    assert config.data_endpoints == {"ingest.data": "tcp://127.0.0.1:5550"}
    assert config.stream(0) == ("ingest.data", "tcp://127.0.0.1:5550", 8 * 2**20)
    assert config.endpoints().keys() == {
        "conductor.commands",
        "conductor.state",
        "ingest.commands",
        "ingest.data",
        "ingest.handover",
        "receivers[0].commands",
        "receivers[1].commands",
    }
    check_streams(config)
    assert dispatch_of(config) is Dispatch.DYNAMIC


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "receiver1",
            'receiver1"\ndata = "ipc:///d',
            r"receivers\[1\]\.data: got 'ipc:///d', expected none: frames go",
        ),
        ("ipc:///run/lima2/hand", "tcp://127.0.0.1:9", r"ingest\.handover: .* by every user of this host"),
        ("ipc:///run/lima2/hand", "tcp://10.0.0.1:9", r"ingest\.handover: .* from other hosts"),
        ("tcp://127.0.0.1:5550", "tcp://10.0.0.1:9", r"ingest\.data: .* and no detector's stream has keys"),
        ("ipc:///run/lima2/hand", "ipc:///run/lima2/ingest", r"is used by ingest\.commands already"),
    ],
)
def test_what_does_not_go_with_an_ingest_is_refused(load, old, new, said):
    with pytest.raises(ConfigError, match=said):
        load(old, new, text=WITH_INGEST)


def test_without_an_ingest_each_receiver_needs_its_data_endpoint(load):
    with pytest.raises(ConfigError, match=r"receivers\[1\]\.data: got none, expected an endpoint, or an \[ingest\]"):
        load('data = "tcp://127.0.0.1:5551"\n', "")


@pytest.mark.parametrize(
    ("plugin", "dispatch", "said"),
    [
        ("jungfrau", None, "takes messages, the data of the detector plugin jungfrau comes by udp"),
        ("smartpix", None, "takes messages, the data of the detector plugin smartpix comes by ring"),
        ("jungfraujoch", None, "needs dynamic dispatch, got none; the detector plugin jungfraujoch has round_robin"),
        ("simulator", Dispatch.ROUND_ROBIN, "needs dynamic dispatch, got round_robin"),
    ],
)
def test_a_detector_that_an_ingest_can_not_serve_is_refused(load, plugin, dispatch, said):
    made = msgspec.structs.replace(load(text=WITH_INGEST), detector=DetectorConfig(plugin), dispatch=dispatch)
    with pytest.raises(ConfigError, match=f"ingest: it {said}"):
        IngestDaemon(made)

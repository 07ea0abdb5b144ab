import msgspec
import pytest

from lima2_processing.pipelines.smx_params import SmxParams


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noize": 1.0}, r"unknown field `noize`"),
        ({"noise": -1.0}, r"> 0.* - at `\$\.noise`"),
        ({"cutoff_pick": 0}, r"> 0.* - at `\$\.cutoff_pick`"),
        ({"n_bins": 0}, r">= 1 - at `\$\.n_bins`"),
        ({"cycle": 2.5}, r"Expected `int`, got `float` - at `\$\.cycle`"),
        ({"unit": "furlongs"}, r"at `\$\.unit`"),
        ({"error_model": "none"}, r"at `\$\.error_model`"),
        ({"beam_center": [1.0]}, r"length 2.* at `\$\.beam_center`"),
        ({"pedestal": [{"path": "/a", "hash": "b"}]}, r"unknown field `hash` - at `\$\.pedestal\[0\]`"),
    ],
)
def test_wrong_parameters_are_refused_with_their_path(wrong, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=SmxParams)


def test_every_parameter_has_a_default_and_is_documented():
    params = SmxParams()
    for name in params.__struct_fields__:
        assert f":param {name}:" in SmxParams.__doc__

"""The configuration: defaults, file, overrides, and what is refused."""

import pytest
import yaml

from difal.config import FIELDS, Config, resumed_config
from difal.errors import ConfigError
from difal.presets import make_config


def test_the_budget_and_the_mlp_are_the_papers():
    config = Config()
    assert (config.budget, config.rounds, config.local, config.keep) == (0.1, 10, 50, 0.5)
    assert (config.noise_samples, config.epochs, config.learning_rate, config.weight_decay) == (5, 50, 1e-3, 1e-5)
    assert config.hidden_widths(11) == config.hidden_widths(29) == (128, 32)
    assert config.hidden_widths(30) == (256, 128)
    assert [config.round_budget(n) for n in (367, 2975, 3)] == [37, 298, 1]


def test_file_and_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: here\nlearning_rate: 1e-2\nclasses: [a, b]\nrounds: 3\n")
    config = make_config(path, {"rounds": 4})
    assert (config.data, config.learning_rate, config.rounds) == ("here", 0.01, 4)
    assert config.class_names() == ("a", "b")
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert make_config(path) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 0.0}, "`keep` must be above 0 and at most 1, got 0"),
        ({"keep": 1.5}, "`keep` must be above 0"),
        ({"budget": -1}, r"`budget` must be above 0, got -1\.0"),
        ({"budget": float("inf")}, "`budget` must be finite, got inf"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be finite, got nan"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0, got -1"),
        ({"lift": -0.5}, r"`lift` must be at least 0 and at most 1, got -0\.5"),
        ({"lift": 50}, r"`lift` must be at least 0 and at most 1, got 50\.0"),
        ({"rounds": 0}, "`rounds` must be at least 1, got 0"),
        ({"rounds": 2.5}, r"`rounds` must be an int, got 2\.5"),
        ({"rounds": True}, "`rounds` must be an int, got True"),
        ({"kernel": "linear"}, "`kernel` must be one of rbf"),
        ({"local": 99, "candidates": 9}, r"`local` must be at most `candidates` \(9\), got 99"),
        ({"hidden": "128"}, "`hidden` must be `auto` or two positive widths"),
        ({"acquisiton": "x"}, "unknown setting 'acquisiton'; did you mean 'acquisition'"),
        ({"head_batch": 1, "context": 0}, "BatchNorm needs two rows"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(None, values)


def test_the_bounds_belong_to_what_is_allowed():
    assert [make_config(None, {"lift": lift}).lift for lift in (0, 1)] == [0.0, 1.0]


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "must hold"), ("rownds: 1", "rounds")])
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_config(path)
    with pytest.raises(ConfigError, match="no configuration file"):
        make_config(tmp_path / "none.yaml")


def test_only_some_settings_may_change():
    stored = Config(data="x").to_dict()
    assert resumed_config(stored, {"rounds": 20, "threads": 2}).rounds == 20
    assert resumed_config(stored, {"keep": 0.5}).keep == 0.5
    with pytest.raises(ConfigError, match="`seed` was 0 when the run began and is 1 now"):
        resumed_config(stored, {"seed": 1})


def test_every_setting_has_help():
    assert all(item.metadata["help"] and item.metadata["group"] for item in FIELDS.values())

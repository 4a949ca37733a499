"""What was called otherwise a release ago still works, and says what it is called now."""

import importlib
import sys

import pytest

from difal import earlier_names
from difal.config import RENAMED, Config


def resolve(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", earlier_names.MODULES)
def test_an_earlier_module(name):
    now, elsewhere = earlier_names.MODULES[name]
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is {now} now"):
        module = importlib.import_module(name)
    for old, path in elsewhere.items():
        assert getattr(module, old) is resolve(path)
    target = importlib.import_module(now)
    for public in (one for one in vars(target) if not one.startswith("_")):
        assert getattr(module, public) is getattr(target, public) or public in elsewhere
    with pytest.raises(AttributeError):
        _ = module.never_there


@pytest.mark.parametrize(("old", "now"), earlier_names.NAMES.items())
def test_an_earlier_name(old, now):
    with pytest.warns(DeprecationWarning, match=now):
        assert resolve(old) is resolve(now)


@pytest.mark.parametrize("old", RENAMED)
def test_an_earlier_setting(old):
    value = getattr(Config(), RENAMED[old])
    value = type(value)(3) if isinstance(value, int) else value
    with pytest.warns(DeprecationWarning, match=RENAMED[old]):
        assert getattr(Config(**{old: value}), RENAMED[old]) == value


def test_a_name_that_never_was():
    from difal import config

    with pytest.raises(AttributeError, match="no attribute 'never'"):
        _ = config.never
    with pytest.raises(TypeError, match="never"):
        Config(never=1)


def test_an_earlier_argument():
    @earlier_names.renamed_argument("say", "log")
    def greet(name, log=print):
        log(name)

    heard = []
    with pytest.warns(DeprecationWarning, match="log= now"):
        greet("you", say=heard.append)
    greet("me", log=heard.append)
    assert heard == ["you", "me"]

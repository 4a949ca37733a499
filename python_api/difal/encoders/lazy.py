"""An encoder that is loaded when it is first needed."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property

from difal.config import Config
from difal.encoders.loading import fingerprint, load_encoder
from difal.errors import ConfigError


class LazyEncoder:
    """Called, gives the encoder, loading it once, when first needed; `weights` tells it from others of its name."""

    def __init__(self, config: Config, encoder=None):
        self.config, self.given, self.encoder = config, encoder, encoder

    def __call__(self):
        if self.encoder is None:
            with _flag_named():
                self.encoder = load_encoder(self.config.encoder, device=self.config.device)
        return self.encoder

    @cached_property
    def weights(self) -> str | None:
        """Digest of weights and settings; None for an encoder without a `fingerprint`. Loads no network."""
        if self.given is not None:
            return self.given.fingerprint() if hasattr(self.given, "fingerprint") else None
        with _flag_named():
            return fingerprint(self.config.encoder)


@contextmanager
def _flag_named():
    """Errors about the encoder's `name` say `--encoder`, which is what the user gave."""
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise ConfigError(str(error).replace("`name`", "`--encoder`")) from error

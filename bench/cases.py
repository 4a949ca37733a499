"""The one registry of selection cases."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from features import SOURCES


@dataclass(frozen=True)
class Case:
    source: str  # a key of features.SOURCES
    n: int
    d: int
    budget: int

    @property
    def name(self) -> str:
        return f"{self.source}-N{self.n}-D{self.d}-b{self.budget}"

    def features(self) -> torch.Tensor:
        return SOURCES[self.source](self.n, self.d)


COVERAGE = [
    Case("clusters", 10_000, 512, 50),
    Case("pixels", 10_000, 512, 50),
    Case("clusters", 10_000, 1536, 50),
    Case("pixels", 10_000, 1536, 50),
    Case("pixels", 4_000, 512, 2_000),
]

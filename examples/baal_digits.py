"""Baal: an active-learning loop that labels handwritten digits by coverage. `python examples/baal_digits.py`"""

import torch
from baal.active import ActiveLearningDataset, ActiveLearningLoop
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.utils.data import TensorDataset

from difal.adapters.baal import MaxHerding

X, y = load_digits(return_X_y=True)
X = torch.from_numpy(X / 16).float()
pool, test = slice(0, 1200), slice(1200, None)
dataset = ActiveLearningDataset(TensorDataset(X[pool], torch.from_numpy(y[pool])))


def embed(items):
    """One embedding an item: the pixels. A network's penultimate layer in earnest."""
    return torch.stack([items[i][0] for i in range(len(items))]).numpy()


def labeled():
    return embed(dataset) if len(dataset) else X[:0].numpy()


loop = ActiveLearningLoop(dataset, embed, MaxHerding(budget=10, labeled=labeled), query_size=10)
for _ in range(5):
    loop.step()
    targets = [int(dataset[i][1]) for i in range(len(dataset))]
    model = LogisticRegression(max_iter=1000).fit(embed(dataset), targets)
    print(f"{len(dataset)} labels, accuracy {model.score(X[test], y[test]):.3f}")

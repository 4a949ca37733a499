"""Make docs/img/disagreement.png: entropy, DALD and eDALD on a photograph, from 21 labeled pixels.

    python docs/make_disagreement_figure.py

The model is a small MLP over colours at three scales, trained on the labeled pixels alone; the samples are
five passes over the photograph with fresh noise added, the single prediction a pass without.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data, filters

from difal_kernels import disagreement
from pictures import save_figure

K, NOISE = 5, 0.08
LABELS = {  # (x, y) of pixels of skimage.data.coffee(), by class
    "red glaze": [(100, 220), (130, 290), (420, 250), (225, 275)],
    "white": [(190, 90), (300, 27), (372, 70), (300, 198)],
    "coffee": [(300, 150), (240, 160), (330, 180)],
    "wood": [(50, 200), (500, 150), (450, 70), (60, 350), (530, 350)],
    "spoon": [(360, 280), (411, 80), (350, 310)],
    "shadow": [(30, 30), (60, 10)],
}
COLOURS = ("#d62728", "#ffffff", "#ff9f1c", "#8c564b", "#17becf", "#000000")


def features(image):
    """(H, W, 9): the colours as they are and blurred over 2 and 6 pixels."""
    scales = [image, *(filters.gaussian(image, sigma, channel_axis=-1) for sigma in (2, 6))]
    return torch.from_numpy(np.concatenate(scales, -1)).float()


def train(inputs, targets):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(9, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, len(LABELS)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(400):
        noisy = inputs + 0.03 * torch.randn_like(inputs)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(noisy), targets).backward()
        optimizer.step()
    return model


def main():
    image = data.coffee() / 255.0
    clean = features(image)
    points = torch.tensor([p for pixels in LABELS.values() for p in pixels])
    targets = torch.tensor([c for c, pixels in enumerate(LABELS.values()) for _ in pixels])
    model = train(clean[points[:, 1], points[:, 0]], targets)

    generator = np.random.default_rng(0)
    with torch.no_grad():
        single = model(clean)  # (H, W, C)
        passes = [model(features(image + generator.normal(0, NOISE, image.shape))) for _ in range(K)]
    samples = torch.stack(passes)  # (K, H, W, C)
    scores = disagreement(samples, single, outputs=("entropy", "dald", "edald"), sample_dim=0)

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.2), layout="constrained")
    axes[0, 0].imshow(image)
    for c, (name, pixels) in enumerate(LABELS.items()):
        x, y = zip(*pixels, strict=True)
        axes[0, 0].scatter(x, y, s=34, c=COLOURS[c], edgecolors="lime", linewidths=1.2, label=name)
    figure.legend(loc="outside lower center", ncols=len(LABELS), fontsize=8)
    axes[0, 0].set_title(f"photograph and the {len(points)} labeled pixels")
    titles = ("entropy of one pass", f"DALD: disagreement of {K} noisy passes", "eDALD: their sum")
    for axis, title, score in zip(axes.flat[1:], titles, scores.values(), strict=True):
        picture = axis.imshow(score.numpy(), cmap="magma", vmin=0)
        axis.set_title(title)
        figure.colorbar(picture, ax=axis, shrink=0.85, label="nats")
    save_figure(figure, Path(__file__).parent / "img" / "disagreement.png")
    for name, score in scores.items():
        print(f"{name:8} {float(score.mean()):.3f} nats on average, {float(score.max()):.3f} at most")


if __name__ == "__main__":
    main()

"""The released two-stage code's calls on three photographs. `python examples/two_stage_photos.py`"""

import torch
from skimage import data

from difal.adapters.two_stage import GlobalHerding, local_herding
from difal.encoders import load_encoder

CANDIDATES, LOCAL, ROUNDS = 2000, 50, 2
encoder = load_encoder("tiny")
generator = torch.Generator().manual_seed(0)
features, places = [], []
for name, photo in (("astronaut", data.astronaut()), ("cat", data.chelsea()), ("coffee", data.coffee())):
    photo = photo[:256, :256]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    chosen = torch.randperm(256 * 256, generator=generator)[:CANDIDATES]
    points = torch.stack([chosen // 256, chosen % 256], 1)
    hypercolumns = encoder.hypercolumns(image, points)
    picks, _, _, _ = local_herding(hypercolumns, LOCAL, disable_tqdm=True)  # stage 1, local
    features.append(hypercolumns[picks])
    places += [(name, *points[pick].tolist()) for pick in picks]

features = torch.cat(features)
labeled: list[int] = []
for round_number in range(ROUNDS):  # stage 1, global: what was labeled goes in front
    rest = [i for i in range(len(features)) if i not in labeled]
    order = labeled + rest
    picks = GlobalHerding().greedy_select(features[order], budget=5, num_prev=len(labeled))
    print(f"round {round_number}:", *[places[order[pick]] for pick in picks])
    labeled += [order[pick] for pick in picks]

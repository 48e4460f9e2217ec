"""Prints what PIL and torchvision make of one small image: the tables in the tests of resample.rs and photometry.rs.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install numpy pillow torch torchvision
    /tmp/peer/bin/python site-agent/data/scripts/reference_numbers.py

The image is 5 rows of 6 columns, `(37 y + 61 x + 11 x y) mod 101 / 100`. Where both libraries do the same (a resize
with antialiasing), they are held to each other first.
"""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

y, x = np.mgrid[0:5, 0:6]
image = ((37 * y + 61 * x + 11 * x * y) % 101 / 100).astype(np.float32)
tensor = torch.from_numpy(image)[None]


def table(name, values):
    print(f"{name}:")
    for row in values:
        print("    " + ", ".join(f"{value:.6f}" for value in row) + ",")


for name, of_pil, of_torch in [
    ("cubic", Image.Resampling.BICUBIC, InterpolationMode.BICUBIC),
    ("linear", Image.Resampling.BILINEAR, InterpolationMode.BILINEAR),
]:
    for rows, columns in [(3, 4), (6, 7)]:
        pil = np.asarray(Image.fromarray(image).resize((columns, rows), of_pil))
        torchvision = F.resize(tensor, [rows, columns], of_torch, antialias=True)[0].numpy()
        assert np.abs(pil - torchvision).max() < 2e-6, (name, rows, columns)
        table(f"{name}, {rows} rows of {columns}", pil)

table("brightness 1.3", F.adjust_brightness(tensor, 1.3)[0])
table("contrast 1.6", F.adjust_contrast(tensor, 1.6)[0])
table("contrast 0.7", F.adjust_contrast(tensor, 0.7)[0])
table("gamma 1.2", F.adjust_gamma(tensor, 1.2)[0])

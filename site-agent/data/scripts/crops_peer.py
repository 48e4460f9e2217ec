"""Times the frame cache and the crops beside pydicom and torchvision doing the same work, in turns on one machine.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch torchvision pydicom
    cargo build --workspace --bins --example crops
    /tmp/peer/bin/python site-agent/data/scripts/crops_peer.py [demo|small] [--turns 3] [--threads 2] [--json FILE]

`demo` is the demo's plan (2 crops of 48 pixels, 2 of 24) on the demo's phantom; `small` is ViT-S/8's (2 of 224, 8 of
96) on the phantom with a hospital's matrices. The images are site b's, written and indexed below --folder unless they
are there. Every turn measures, one after the other, with the same number of threads (ours) or worker processes (peers):

    ours           frames drawn from the cache, cropped
    dicom/...      a Dataset that reads a frame's DICOM file, normalises it by its percentiles, resamples it to the
                   plan's grid, and crops that
    memory/...     a Dataset that holds the normalised frames in memory, and crops them
    .../tensor     with torchvision on float tensors
    .../pil        with torchvision on 8-bit PIL images and PIL's approximate blur, as DINO's own code does: less exact

Printed are images a second, images a CPU second (which other work on the machine distorts less; start and end are in
it), and how many times ours is faster in both: medians of the turns. The mean and deviation of the values made show that
it is the same work; they differ a little because ours draws a subject first, the peers a frame, and because `dicom`
normalises a file by itself, not with its series.
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import pydicom
import torch
import torchvision
from PIL import Image, ImageFilter
from pydicom.pixels import pixel_array
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
SUBJECTS = {"demo": 24, "small": 3}
PREFETCH = 2  # batches that a worker is ahead, the DataLoader's default
FIRST = 4  # batches that the example makes before it begins to count


def written_plan(which):
    if which == "small":
        return dict(image_size=224, in_channels=1, batch_size=32)
    plan = tomllib.loads((ROOT / "tests/plans/demo.toml").read_text())
    model, training = plan["model"], plan["training"]
    sizes = dict(image_size=model["image_size"], in_channels=model["in_channels"], batch_size=training["batch_size"])
    return sizes | dict(images=plan["images"], crops=plan["crops"])


def prepare(which, folder):
    """The images' folder, the cache's and the settings' file."""
    images, state, settings = folder / which / "images", folder / which / "state", folder / which / "settings.json"
    finished = folder / which / "finished"
    if not finished.exists():
        full = ["--full"] if which == "small" else []
        phantom = ["phantom", "--out", images, "--site", "b", "--subjects", str(SUBJECTS[which]), *full]
        plan = ["--plan", ROOT / "tests/plans/demo.toml"] if which == "demo" else []
        index = ["site-agent", "index", images / "site-b/dicom", "--state", state, *plan]
        for program, *arguments in (phantom, index):
            subprocess.run([TARGET / program, *arguments], check=True, stdout=subprocess.DEVNULL)
        settings.write_text(json.dumps(written_plan(which)))
        finished.touch()
    (cache,) = (path for path in (state / "images").glob("cache-*") if path.is_dir())
    return images / "site-b/dicom", cache, settings


def cpu_seconds():
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def ours(cache, settings, batches, threads):
    command = [TARGET / "examples/crops", cache, settings, str(batches)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    before = cpu_seconds()
    told = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    images = (batches + FIRST) * told["settings"]["batch_size"]
    return told | dict(images_per_cpu_s=images / (cpu_seconds() - before))


def frames_of(folder):
    """Every frame of every image below a folder: its file and its index there."""
    frames = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        if header.get("Modality") == "MR" and "Rows" in header:
            frames += [(path, index) for index in range(int(header.get("NumberOfFrames", 1)))]
    return frames


def normalised(path, index, images):
    """A frame on the plan's grid, in 0..1. [1 x frame_size x frame_size]"""
    image = pydicom.dcmread(path)
    values = pixel_array(image, index=index).astype(np.float32)
    measures = scale = image
    if "SharedFunctionalGroupsSequence" in image:
        groups = [image.PerFrameFunctionalGroupsSequence[index], image.SharedFunctionalGroupsSequence[0]]
        within = lambda name: next((group[name][0] for group in groups if name in group), image)
        measures, scale = within("PixelMeasuresSequence"), within("PixelValueTransformationSequence")
    values = values * float(scale.get("RescaleSlope", 1)) + float(scale.get("RescaleIntercept", 0))
    low, high = np.percentile(values, [images["low_percentile"], images["high_percentile"]])
    values = torch.from_numpy(((values - low) / (high - low)).clip(0, 1).astype(np.float32))[None]
    spacing = [float(mm) / images["spacing_mm"] for mm in measures.PixelSpacing]
    size = [round(count * ratio) for count, ratio in zip(values.shape[1:], spacing)]
    values = F.resize(values, size, InterpolationMode.BILINEAR, antialias=True)
    return F.center_crop(values, [images["frame_size"]] * 2)


def as_pil(frame):
    return Image.fromarray((frame[0] * 255).round().to(torch.uint8).numpy())


class CropDataset(Dataset):
    def __init__(self, settings, crop, frames, read):
        self.settings, self.crop, self.frames, self.read = settings, crop, frames, read

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, place):
        frame, count = self.read(self.frames[place]), 2 + self.settings["crops"]["local_count"]
        return [self.crop(frame, which, self.settings) for which in range(count)]


def drawn(which, settings):
    """A crop's side and scale, its jitter and its blur, if any."""
    plan = settings["crops"]
    side, scale = (
        (settings["image_size"], plan["global_scale"]) if which < 2 else (plan["local_size"], plan["local_scale"])
    )
    around_one = lambda width: random.uniform(max(0, 1 - width), 1 + width)
    width, jitter, sigma = math.log(1 + plan["gamma"]), None, None
    if random.random() < plan["jitter"]:
        jitter = around_one(plan["brightness"]), around_one(plan["contrast"]), math.exp(random.uniform(-width, width))
    if random.random() < plan["blur"][min(which, 2)]:
        sigma = random.uniform(*plan["blur_sigma"]) * side / 224
    return side, scale, random.random() < plan["flip"], jitter, sigma


def finished(crop, settings):
    """With noise, normalised, in every channel."""
    crop = crop + torch.randn_like(crop) * random.uniform(0, settings["crops"]["noise"])
    images = settings["images"]
    crop = crop.clamp_(0, 1).sub_(images["mean"]).div_(images["std"])
    return crop.expand(settings["in_channels"], -1, -1)


def tensor_crop(frame, which, settings):
    side, scale, flip, jitter, sigma = drawn(which, settings)
    part = RandomResizedCrop.get_params(frame, scale, (3 / 4, 4 / 3))
    crop = F.resized_crop(frame, *part, [side, side], InterpolationMode.BICUBIC, antialias=True).clamp_(0, 1)
    if flip:
        crop = F.horizontal_flip(crop)
    if jitter:
        brightness, contrast, gamma = jitter
        crop = F.adjust_gamma(F.adjust_contrast(F.adjust_brightness(crop, brightness), contrast), gamma)
    if sigma:
        crop = F.gaussian_blur(crop, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])
    return finished(crop, settings)


def pil_crop(frame, which, settings):
    side, scale, flip, jitter, sigma = drawn(which, settings)
    part = RandomResizedCrop.get_params(frame, scale, (3 / 4, 4 / 3))
    crop = F.resized_crop(frame, *part, [side, side], InterpolationMode.BICUBIC)
    if flip:
        crop = F.horizontal_flip(crop)
    if jitter:
        brightness, contrast, gamma = jitter
        crop = F.adjust_gamma(F.adjust_contrast(F.adjust_brightness(crop, brightness), contrast), gamma)
    if sigma:
        crop = crop.filter(ImageFilter.GaussianBlur(sigma))
    return finished(torch.from_numpy(np.asarray(crop, dtype=np.float32)[None] / 255), settings)


def peer(dataset, batches, threads):
    size, ahead = dataset.settings["batch_size"], PREFETCH * threads
    # Measured in the middle: the workers are busy before the first batch that counts and after the last.
    drawn = RandomSampler(dataset, replacement=True, num_samples=size * (batches + 2 * ahead))
    loader = DataLoader(dataset, size, sampler=drawn, num_workers=threads, prefetch_factor=PREFETCH)
    values, before = [], cpu_seconds()
    for place, crops in enumerate(loader):
        if place < ahead:
            values += [crop.flatten() for crop in crops]
        if place == ahead - 1:
            began = time.perf_counter()
        if place == ahead + batches - 1:
            seconds = time.perf_counter() - began
    rates = dict(images_per_s=size * batches / seconds, images_per_cpu_s=size * len(loader) / (cpu_seconds() - before))
    values = torch.cat(values)
    return rates | dict(mean=values.mean().item(), deviation=values.std().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=SUBJECTS, nargs="?", default="demo")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batches", type=int, help="that a peer is timed over; ours takes ten times as many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "crops-peer")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    asked = parser.parse_args()
    batches = asked.batches or {"demo": 40, "small": 6}[asked.which]
    images, cache, settings_file = prepare(asked.which, asked.folder)
    settings = ours(cache, settings_file, 1, asked.threads)["settings"]

    frames = frames_of(images)
    held = [normalised(*frame, settings["images"]) for frame in frames]
    pictures = [as_pil(frame) for frame in held]
    read = lambda frame: normalised(*frame, settings["images"])
    datasets = {
        "dicom/tensor": CropDataset(settings, tensor_crop, frames, read),
        "dicom/pil": CropDataset(settings, pil_crop, frames, lambda frame: as_pil(read(frame))),
        "memory/tensor": CropDataset(settings, tensor_crop, held, lambda frame: frame),
        "memory/pil": CropDataset(settings, pil_crop, pictures, lambda frame: frame),
    }
    turns = {name: [] for name in ("ours", *datasets)}
    for turn in range(asked.turns):
        turns["ours"].append(ours(cache, settings_file, 10 * batches, asked.threads))
        for name, dataset in datasets.items():
            turns[name].append(peer(dataset, batches, asked.threads))
        rates = ", ".join(f"{name} {told[-1]['images_per_s']:.0f}" for name, told in turns.items())
        print(f"turn {turn + 1}: {rates}", flush=True)

    table = {}
    for name, told in turns.items():
        row = {}
        for rate in ("images_per_s", "images_per_cpu_s"):
            ratios = [own[rate] / turn[rate] for own, turn in zip(turns["ours"], told, strict=True)]
            row |= {rate: statistics.median(turn[rate] for turn in told), f"ours_{rate}": statistics.median(ratios)}
        table[name] = row | dict(mean=told[-1]["mean"], deviation=told[-1]["deviation"])
    print(f"\n{asked.which}: {len(frames)} frames, {asked.threads} threads or workers, {asked.turns} turns")
    print(f"{'':14}{'images/s':>10}{'ours is':>10}{'images/CPU s':>14}{'ours is':>10}{'mean':>9}{'deviation':>11}")
    for name, row in table.items():
        print(
            f"{name:14}{row['images_per_s']:10.0f}{row['ours_images_per_s']:8.1f} x{row['images_per_cpu_s']:14.0f}"
            f"{row['ours_images_per_cpu_s']:8.1f} x{row['mean']:9.3f}{row['deviation']:11.3f}"
        )
    versions = dict(torch=torch.__version__, torchvision=torchvision.__version__, pydicom=pydicom.__version__)
    asked_for = dict(which=asked.which, threads=asked.threads, turns=asked.turns, batches=batches, frames=len(frames))
    text = json.dumps(asked_for | dict(batch_size=settings["batch_size"], versions=versions, figures=table))
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

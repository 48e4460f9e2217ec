#!/usr/bin/env python3
"""Read every DICOM file of a folder with pydicom, which shares no code with the programs here.

    python3 -m venv venv && venv/bin/pip install pydicom numpy
    cargo phantom --out images && venv/bin/python tests/scripts/check_dicom.py images

Zips are looked into. Every element is converted and every pixel array read, with warnings as errors. Within a series,
SeriesNumber must be one and InstanceNumber differ; SpacingBetweenSlices must be the distance of neighbouring positions
along the slices' normal (site A has a series a slice: there, the study's series of one kind are taken together).
Prints counts; exits with 1 if anything is wrong.
"""

import io
import re
import sys
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import pydicom


def files(root):
    """(name, bytes) of every DICOM file below a folder, in zips as well; the phantom's truth is not DICOM."""
    for path in sorted(Path(root).rglob("*")):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".dcm"):
                        yield f"{path}!{name}", archive.read(name)
        elif path.is_file() and path.read_bytes()[128:132] == b"DICM":
            yield str(path), path.read_bytes()


def read(content):
    """The data set, with all of its values converted and its pixels read."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.walk(lambda _, element: element.value)
    frames = int(dataset.get("NumberOfFrames", 1))
    shape = (dataset.Rows, dataset.Columns)
    if dataset.pixel_array.shape != (shape if frames == 1 else (frames, *shape)):
        raise ValueError(f"pixels of shape {dataset.pixel_array.shape}")
    if dataset.pixel_array.max() == dataset.pixel_array.min():
        raise ValueError("an image of one value")
    return dataset, frames


def along_normal(dataset):
    """Place of a slice along its normal, mm."""
    r, c = dataset.ImageOrientationPatient[:3], dataset.ImageOrientationPatient[3:]
    normal = (r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0])
    return sum(n * p for n, p in zip(normal, dataset.ImagePositionPatient))


def main(roots):
    warnings.simplefilter("error")
    wrong, count, images = [], 0, 0
    numbers, instances, places, classes = defaultdict(set), defaultdict(list), defaultdict(set), defaultdict(int)
    for name, content in (one for root in roots for one in files(root)):
        count += 1
        try:
            dataset, frames = read(content)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        images += frames
        classes[dataset.SOPClassUID.name] += 1
        series = dataset.SeriesInstanceUID
        numbers[series].add(int(dataset.SeriesNumber))
        instances[series].append(int(dataset.InstanceNumber))
        if "SpacingBetweenSlices" in dataset:
            kind = re.sub(r"_b\d+s?", "_b", dataset.SeriesDescription)
            key = (dataset.StudyInstanceUID, kind, float(dataset.SpacingBetweenSlices))
            places[key].add(round(along_normal(dataset), 3))
    wrong += [f"series {series}: SeriesNumber {sorted(found)}" for series, found in numbers.items() if len(found) > 1]
    wrong += [f"series {series}: InstanceNumber twice" for series, n in instances.items() if len(set(n)) < len(n)]
    for (study, kind, spacing), found in places.items():
        steps = [b - a for a, b in zip(sorted(found), sorted(found)[1:])]
        if not steps or any(abs(step - spacing) > 0.01 for step in steps):
            wrong.append(f"study {study}, {kind}: spacing {spacing}, but positions {steps} apart")
    kinds = ", ".join(f"{n} {name}" for name, n in sorted(classes.items()))
    print(f"{count} files ({kinds}), {images} images, {len(numbers)} series, {len(places)} stacks, {len(wrong)} wrong")
    for line in wrong[:20]:
        print(f"  {line}", file=sys.stderr)
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))

"""Writes site-agent/src/metrics/oracle.json: cases for each metric, with the answers of the packages people trust.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install monai nibabel numpy scikit-learn scipy torch
    /tmp/peer/bin/python site-agent/scripts/metrics_oracle.py

Dice is MONAI's. HD95 is MONAI's, whose distances are 32-bit, and SciPy's in 64 bits; they are held to each other. The
bootstrap is replayed from the papers: ChaCha with 8 rounds, seeded and mapped to a range as the crate rand does.
"""

import importlib.metadata
import json
import pathlib
import warnings

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from scipy import ndimage, stats
from sklearn import metrics

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20240611)


def plain(value):
    """As JSON: nine decimals, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return round(value, 9) if np.isfinite(value) else None
    return value


def hd95_of_scipy(truth, found, spacing):
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (truth, found)]
    if not all(edge.any() for edge in edges):
        return np.nan
    fields = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return max(np.percentile(fields[0][edges[1]], 95), np.percentile(fields[1][edges[0]], 95))


def masks(case):
    # The last three are one slice: a plane for both packages.
    dims = [(5, 12, 14), (3, 10, 11), (4, 9, 13), (1, 16, 18)][min(case // 3, 3)]
    spacing = [[8.0, 1.25, 1.25], [10.0, 1.5625, 1.4], [1.0, 1.0, 1.0], [6.5, 0.9, 2.3]][case % 4]
    smooth = [0.0, 1.0, 1.5][case % 3]
    shape = rng.normal(size=dims)
    maps = []
    for amount in (0.0, 0.4):
        noisy = ndimage.gaussian_filter(shape + amount * rng.normal(size=dims), smooth)
        maps.append(np.searchsorted(np.quantile(noisy, [0.6, 0.8, 0.93]), noisy).astype(np.uint8))
    if case % 4 == 1:
        maps[0][maps[0] == 3] = 0
    if case % 4 == 2:
        maps[1][maps[1] == 3] = 0
    if case % 4 == 3:
        for one in maps:
            one[one == 2] = 1
    plane = dims[0] == 1
    answers = {"dice": [], "hd95_scipy": [], "hd95_monai": []}
    for label in range(4):
        truth, found = ((one[0] if plane else one) == label for one in maps)
        mm = spacing[1:] if plane else spacing
        tensors = [torch.from_numpy(mask)[None, None].float() for mask in (found, truth)]
        dice = compute_dice(*tensors, include_background=True, ignore_empty=False).item()
        monai = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=mm).item()
        scipy = hd95_of_scipy(truth, found, mm)
        assert np.isfinite(monai) == np.isfinite(scipy) and not abs(monai - scipy) > 1e-6 * max(scipy, 1.0)
        answers["dice"].append(dice if truth.any() or found.any() else None)
        answers["hd95_scipy"].append(scipy)
        answers["hd95_monai"].append(monai)
    digits = ["".join(map(str, one.ravel())) for one in maps]
    return {"dims": dims, "spacing_mm": spacing, "truth": digits[0], "found": digits[1], **answers}


def classification(case):
    classes, samples = 2 + case % 4, 24
    # Every third case has a last class that is called and never true.
    truth = rng.integers(0, classes - (case % 3 == 2 and classes > 2), samples)
    # One decimal, so that many scores are tied.
    scores = np.round(rng.random((samples, classes)) + 0.4 * np.eye(classes)[truth], 1)
    found = scores.argmax(1)
    if case == 9:
        found[:] = 0
    every = range(classes)
    one = lambda score, label: score(truth == label, found == label, zero_division=np.nan)
    areas = [metrics.roc_auc_score(truth == c, scores[:, c]) for c in every if 0 < (truth == c).sum() < samples]
    if len(areas) == classes > 2:
        shares = scores / scores.sum(1, keepdims=True)
        whole = metrics.roc_auc_score(truth, shares, multi_class="ovr", average="macro")
        assert abs(whole - np.mean([metrics.roc_auc_score(truth == c, shares[:, c]) for c in every])) < 1e-12
    return {
        "classes": classes,
        "truth": truth,
        "found": found,
        "scores": scores.ravel(),
        "confusion": metrics.confusion_matrix(truth, found, labels=every),
        "accuracy": metrics.accuracy_score(truth, found),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, found),
        "f1_macro": metrics.f1_score(truth, found, average="macro"),
        "matthews": metrics.matthews_corrcoef(truth, found),
        "sensitivity": [one(metrics.recall_score, c) for c in every],
        "specificity": [metrics.recall_score(truth != c, found != c, zero_division=np.nan) for c in every],
        "auc_one_vs_rest": np.mean(areas),
    }


def roc(case):
    truth = rng.permutation(np.arange(24) < 3 + case)
    scores = np.round(rng.normal(size=24) + 0.8 * truth, 1 + case % 2)
    fpr, tpr, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
    pairs = stats.mannwhitneyu(scores[truth], scores[~truth]).statistic
    return {
        "truth": truth,
        "scores": scores,
        "auc": metrics.roc_auc_score(truth, scores),
        "mann_whitney": pairs / (truth.sum() * (~truth).sum()),
        "fpr": fpr,
        "tpr": tpr,
        "thresholds": thresholds[1:],
    }


def agreement(case):
    truth = np.round(rng.normal(150, 40, 5 + 2 * case), 2)
    found = np.round(truth * rng.uniform(0.9, 1.1) + rng.normal(3, 1 + 3 * case, truth.size), 2)
    bias, deviation = np.mean(found - truth), np.std(found - truth, ddof=1)
    return {
        "truth": truth,
        "found": found,
        "bias": bias,
        "deviation": deviation,
        "limits": [bias - 1.96 * deviation, bias + 1.96 * deviation],
        "mean_absolute_error": metrics.mean_absolute_error(truth, found),
        "pearson": stats.pearsonr(found, truth).statistic,
        "coefficient_of_variation": np.sqrt(np.mean((found - truth) ** 2 / 2 / ((found + truth) / 2) ** 2)),
    }


def landmarks(case):
    truth = np.round(rng.uniform(0, 100, (3 + case, 3)), 1)
    found = np.round(truth + rng.normal(size=truth.shape) * [0.2, 2.5, 2.5], 1)
    spacing = np.array([8.0, 1.2 + 0.1 * case, 1.5])
    mm = np.linalg.norm((found - truth) * spacing, axis=1)
    answers = {"mm": mm, "mean": mm.mean(), "median": np.median(mm), "near": np.mean(mm <= 5.0)}
    return {"truth": truth, "found": found, "spacing_mm": spacing, **answers}


def cardiac(case):
    voxels = rng.integers([4000, 1000, 3000, 0], [9000, 8000, 7000, 900])
    mm3 = np.round(rng.uniform(8, 30), 3)
    ml = voxels * mm3 / 1000
    values = np.round(rng.normal(1100, 80, 16), 1).astype(np.float32)
    mask = rng.random(16) < 0.4
    return {
        "voxels": voxels,
        "voxel_mm3": mm3,
        "ml": ml[:2],
        "ejection_fraction": 100 * (1 - ml[1] / ml[0]),
        "mass_g": 1.05 * ml[2],
        "scar_percent": 100 * ml[3] / (ml[2] + ml[3]),
        "map": values,
        "mask": mask,
        "map_mean": values[mask].astype(float).mean(),
    }


def chacha8(seed):
    """32-bit words of ChaCha (Bernstein 2008) with 8 rounds; the key from a 64-bit seed by PCG32, as rand_core does."""
    key = []
    for _ in range(8):
        seed = (seed * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) % 2**64
        word, turn = ((seed >> 18 ^ seed) >> 27) % 2**32, seed >> 59
        key.append((word >> turn | word << (32 - turn)) % 2**32)
    for block in range(2**32):
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key, block, 0, 0, 0]
        x = list(start)
        for _ in range(4):
            for quarter in ("048c", "159d", "26ae", "37bf", "05af", "16bc", "278d", "349e"):
                a, b, c, d = (int(place, 16) for place in quarter)
                for to, add, mix, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    x[to] = (x[to] + x[add]) % 2**32
                    x[mix] ^= x[to]
                    x[mix] = (x[mix] << turn | x[mix] >> (32 - turn)) % 2**32
        yield from ((one + two) % 2**32 for one, two in zip(x, start))


def below(words, bound):
    """A number below the bound, as rand draws one: the high half of a product, with one step of Canon's correction."""
    high, low = divmod(next(words) * bound, 2**32)
    if low > 2**32 - bound:
        high += (low + (next(words) * bound >> 32)) >= 2**32
    return high


def bootstrap(case):
    subjects = [np.round(rng.normal(10, 3, rng.integers(1, 5)), 2) for _ in range(2 + case)]
    seed = int(rng.integers(0, 2**63))
    words = chacha8(seed)
    drawn = [[below(words, len(subjects)) for _ in subjects] for _ in range(25)]
    means = [np.mean(np.concatenate([subjects[one] for one in each])) for each in drawn]
    return {"seed": seed, "subjects": subjects, "drawn": drawn, "interval": np.percentile(means, [2.5, 97.5])}


packages = ["monai", "numpy", "scikit-learn", "scipy", "torch"]
oracle = {"made_with": {name: importlib.metadata.version(name) for name in packages}}
for kind in (masks, classification, roc, agreement, landmarks, cardiac, bootstrap):
    oracle[kind.__name__] = [plain(kind(case)) for case in range(12)]
path = pathlib.Path(__file__).parents[1] / "src/metrics/oracle.json"
path.write_text(json.dumps(oracle, separators=(",", ":")).replace("],\"", "],\n\"") + "\n")
print(path.stat().st_size, "bytes")

"""Oracle values for the merging rules: five rounds of five sites on four values, by PyTorch's optimizers where it has them
(SGD with momentum, with Nesterov's), and by NumPy from the definitions of the papers where it does not.

    python aggregator/scripts/server_rules.py

prints the table that stands in aggregator/src/aggregation/mod.rs.
"""

import numpy as np
import torch

START = np.array([1.0, -0.5, 0.25, 0.0])
SHARES = np.array([4.0, 2.0, 1.0, 3.0, 2.0])
ROUNDS = 5


def delta(round_, site, place):
    """What a site found; a sum of two binary fractions, so exact in 32 bits and on the merge's grid."""
    return ((7 * round_ + 3 * site + 5 * place) % 11 - 5) / 64.0


def rounds():
    for round_ in range(ROUNDS):
        yield np.array([[delta(round_, site, place) for place in range(4)] for site in range(5)])


def means():
    for deltas in rounds():
        yield SHARES @ deltas / SHARES.sum()


def krum_order(deltas, faulty):
    squares = ((deltas[:, None] - deltas[None]) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    scores = np.sort(squares, axis=1)[:, : len(deltas) - faulty - 2].sum(1)
    return np.argsort(scores, kind="stable")


def geometric_median(deltas):
    weights = SHARES / SHARES.sum()
    for _ in range(10):
        weights = SHARES / np.maximum(1e-6, np.linalg.norm(deltas - weights @ deltas, axis=1))
        weights /= weights.sum()
    return weights @ deltas


def summed(rule):
    return START + sum(rule(deltas) for deltas in rounds())


def sgd(nesterov):
    weights = torch.tensor(START, requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=nesterov)
    for mean in means():
        weights.grad = -torch.tensor(mean)
        optimizer.step()
    return weights.detach().numpy()


def adaptive(second):
    rate, beta1, tau = 0.1, 0.9, 1e-2
    weights, m, v = START.copy(), np.zeros(4), np.full(4, tau**2)
    for mean in means():
        m = beta1 * m + (1 - beta1) * mean
        v = second(v, mean**2)
        weights = weights + rate * m / (np.sqrt(v) + tau)
    return weights


BETA2 = 0.99
RULES = {
    "FedAvg": START + sum(means()),
    "FedAvgM": sgd(False),
    "Nesterov": sgd(True),
    "FedAdam": adaptive(lambda v, square: BETA2 * v + (1 - BETA2) * square),
    "FedYogi": adaptive(lambda v, square: v - (1 - BETA2) * square * np.sign(v - square)),
    "FedAdagrad": adaptive(lambda v, square: v + square),
    "CoordinateMedian": summed(lambda deltas: np.median(deltas, axis=0)),
    "TrimmedMean": summed(lambda deltas: np.sort(deltas, axis=0)[1:-1].mean(0)),
    "Krum": summed(lambda deltas: deltas[krum_order(deltas, 1)[0]]),
    "MultiKrum": summed(lambda deltas: deltas[krum_order(deltas, 1)[:3]].mean(0)),
    "GeometricMedian": summed(geometric_median),
}
for name, weights in RULES.items():
    print(f"{name:16} [{', '.join(f'{weight:.9}' for weight in weights)}]")

"""Oracle values for the server rules: five rounds of three sites on four values, by PyTorch's optimizers where it has them
(SGD with momentum, with Nesterov's), and by NumPy from Reddi et al. 2021, Algorithm 2, where it does not.

    python aggregator/scripts/server_rules.py

prints the table that stands in aggregator/src/aggregation/mod.rs.
"""

import numpy as np
import torch

START = np.array([1.0, -0.5, 0.25, 0.0])
SHARES = np.array([4.0, 2.0, 1.0])
ROUNDS = 5


def delta(round_, site, place):
    """What a site found; a sum of two binary fractions, so exact in 32 bits and on the merge's grid."""
    return ((7 * round_ + 3 * site + 5 * place) % 11 - 5) / 64.0


def means():
    for round_ in range(ROUNDS):
        deltas = np.array([[delta(round_, site, place) for place in range(4)] for site in range(3)])
        yield SHARES @ deltas / SHARES.sum()


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
}
for name, weights in RULES.items():
    print(f"{name:10} [{', '.join(f'{weight:.9}' for weight in weights)}]")

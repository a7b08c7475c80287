"""Time of filter and smoother of 10,000 rows on one thread against statsmodels: same model, same log likelihood.

Run with: python benchmarks/state_space.py [--rows 10000] [--repeats 5]
"""

import argparse
import time

import numpy as np
import torch
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother
from timing import machine, table

from zoo.elimination.kalman import LinearGaussian, filter_rows, smooth_rows
from zoo.elimination.kalman_gradient import density_and_scores


def level():
    """A level that wanders."""
    return np.eye(1), np.eye(1), np.eye(1)


def tracking():
    """Position and velocity in the plane."""
    move = np.kron(np.array([[1.0, 1.0], [0.0, 1.0]]), np.eye(2))
    return move, np.kron(np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]]), np.eye(2)), np.eye(2, 4)


def seasonal():
    """A trend and a pattern of twelve seasons; ten states have no noise of their own."""
    move, noise, design = np.zeros((13, 13)), np.zeros((13, 13)), np.zeros((1, 13))
    move[0, :2] = move[1, 1] = 1.0
    move[2, 2:] = -1.0
    move[np.arange(3, 13), np.arange(2, 12)] = 1.0
    noise[np.arange(3), np.arange(3)] = 0.5, 0.1, 0.2
    design[0, [0, 2]] = 1.0
    return move, noise, design


CASES = {"local level": level, "tracking": tracking, "trend and seasons": seasonal}


def least(run, repeats):
    """Least processor time of some runs, in seconds, and what the last one returned."""
    times, found = [], None
    for _ in range(repeats):
        began = time.process_time()
        found = run()
        times.append(time.process_time() - began)
    return min(times), found


def compare(name, rows, repeats):
    """Seconds of both, and by how much log likelihood and smoothed means differ."""
    move, noise, design = CASES[name]()
    d, p = len(move), len(design)
    x = np.random.default_rng(0).normal(size=(rows, p)).cumsum(0)
    theirs = KalmanSmoother(k_endog=p, k_states=d, tolerance=0)
    theirs.bind(x)
    theirs["transition"], theirs["state_cov"], theirs["design"], theirs["obs_cov"] = move, noise, design, np.eye(p)
    theirs["selection"] = np.eye(d)
    theirs.initialize_known(np.zeros(d), 10 * np.eye(d))
    first = torch.arange(rows) == 0
    f, q, h, r = (torch.tensor(m).expand(rows, *m.shape) for m in (move, noise, design, np.eye(p)))
    q = torch.where(first[:, None, None], 10 * torch.eye(d, dtype=q.dtype), q)
    none = torch.zeros(rows, p, dtype=torch.bool)
    chain = LinearGaussian(f, torch.zeros(rows, d), q, h, torch.tensor(x), r, none, first)

    def ours():
        filtered = filter_rows(chain, after=True)
        return filtered, smooth_rows(filtered)

    slow, expected = least(theirs.smooth, repeats)
    quick, (filtered, states) = least(ours, repeats)
    gradient, _ = least(lambda: density_and_scores(chain), repeats)
    apart = abs(float(filtered.log_prob.sum()) - expected.llf) / abs(expected.llf)
    means = float(np.abs(states.mean.T.numpy() - expected.smoothed_state).max())
    return [
        name,
        d,
        f"{quick:.3f}",
        f"{gradient:.3f}",
        f"{slow:.3f}",
        f"{quick / slow:.2f}",
        f"{apart:.0e}",
        f"{means:.0e}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    header = ["model", "states", "smoother, s", "gradient, s", "statsmodels, s", "ratio", "log p apart", "means apart"]
    with torch.no_grad():
        rows = (compare(name, given.rows, given.repeats) for name in CASES)
        table(header, rows, [18, 6, 11, 11, 14, 6, 11, 11])

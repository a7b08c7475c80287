"""State space models as users declare them, and the same ones for statsmodels' filter."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother
from torch.distributions import constraints

import zoo

# annual flow of the Nile at Aswan, 1871 to 1970, in 10^8 cubic metres (Durbin and Koopman 2012, section 2.2.5)
NILE = np.fromstring(
    "1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140, "
    "1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, "
    "831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, "
    "781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, "
    "744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740",
    sep=",",
)


@zoo.model(x=zoo.Real("year"))
def local_level(x):
    """A level that wanders, seen with noise; two variances."""
    level = pyro.param("level", torch.tensor(1000.0), constraint=constraints.positive)
    noise = pyro.param("noise", torch.tensor(10000.0), constraint=constraints.positive)
    one = torch.eye(1)
    with pyro.plate("year", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(1), 1e7 * one, one, level * one))
        pyro.sample("x", dist.Normal(h[..., 0], noise.sqrt()), obs=x)


@zoo.model(x=zoo.Real("row"))
def autoregression(x):
    """x_t = a x_{t-1} + b x_{t-2} + noise, seen with a little more; the companion form has a singular noise."""
    a = pyro.param("a", torch.tensor([0.3, 0.1]))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    companion = torch.stack([a, torch.tensor([1.0, 0.0])])
    noise = scale**2 * torch.diag(torch.tensor([1.0, 0.0]))
    with pyro.plate("row", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(2), 4 * torch.eye(2), companion, noise))
        pyro.sample("x", dist.Normal(h[..., 0], 0.1), obs=x)


@zoo.model(x=zoo.Real("month"))
def seasonal(x):
    """A random walk and a pattern of four seasons that sum to about zero."""
    sd = pyro.param("sd", torch.tensor([0.5, 0.2, 0.3]), constraint=constraints.positive)
    move = torch.tensor([[1.0, 0, 0, 0], [0, -1, -1, -1], [0, 1, 0, 0], [0, 0, 1, 0]])
    noise = torch.diag(torch.cat([sd[:2] ** 2, torch.zeros(2)]))
    with pyro.plate("month", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(4), 10 * torch.eye(4), move, noise))
        pyro.sample("x", dist.Normal(h[..., 0] + h[..., 1], sd[2]), obs=x)


@zoo.model(position=zoo.Real("fix", "axis"), time=zoo.Real("fix"))
def tracking(position, time):
    """A thing that keeps its velocity but for white acceleration, seen at irregular times in the plane."""
    push = pyro.param("push", torch.tensor(0.5), constraint=constraints.positive)
    error = pyro.param("error", torch.tensor(0.7), constraint=constraints.positive)
    dt = torch.cat([time[:1] * 0, time.diff()])[:, None, None]
    one = torch.eye(2)
    move = torch.eye(4) + dt * torch.kron(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), one)
    shape = torch.cat([torch.cat([dt**3 / 3, dt**2 / 2], -1), torch.cat([dt**2 / 2, dt], -1)], -2)
    noise = push**2 * torch.kron(shape, one)
    with pyro.plate("fix", len(time)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(4), 25 * torch.eye(4), move, noise))
        pyro.sample("position", dist.Normal(h[..., :2], error).to_event(1), obs=position)


def smoother(x, initial, transition, noise, design, spread):
    """Return statsmodels' smoother of rows x (n, p), without its shortcuts in a steady state."""
    made = KalmanSmoother(k_endog=x.shape[1], k_states=len(transition), tolerance=0)
    made.bind(np.ascontiguousarray(x))
    made["transition"], made["state_cov"], made["design"], made["obs_cov"] = transition, noise, design, spread
    made["selection"] = np.eye(len(transition))
    made.initialize_known(*initial)
    return made.smooth()

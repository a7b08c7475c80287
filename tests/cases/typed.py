"""What a user writes, for type checkers: exactly the lines that end in "wrong" are. Nothing runs this file."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import zoo
from guides import Custom, Encoder, FullRank, LowRank, MeanField
from inference import CAVI, EM, MAP, NUTS, SVI, Exact, Fit, Laplace, Pathfinder, compare, fit
from zoo import Count, Positive, Real


class Quakes(zoo.Model):
    """Yearly counts of great earthquakes, from calm and busy years."""

    count = Count("year")
    kinds: int = 2

    def forward(self, count: Tensor) -> None:
        share = pyro.param("share", torch.ones(self.kinds) / self.kinds, constraint=constraints.simplex)
        rate = pyro.param("rate", torch.ones(self.kinds), constraint=constraints.positive)
        with pyro.plate("year", len(count)):
            kind = pyro.sample("kind", dist.Categorical(share))
            pyro.sample("count", dist.Poisson(rate[kind]), obs=count)


class EightSchools(zoo.Model):
    """Treatment effects of coaching programmes in eight schools (Rubin 1981)."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect: Tensor, error: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


class Net(zoo.Model):
    """A network, a buffer and starting values."""

    x = Real("row", "feature")
    latent: int
    widths: tuple[int, ...] = (8,)
    dims = {"z": ("latent",)}  # noqa: RUF012

    def check(self, x: Tensor) -> None:
        if len(x) < self.latent:
            raise zoo.DataError("too few rows")

    def setup(self, x: Tensor) -> None:
        self.net = nn.Linear(self.latent, x.shape[1])
        self.center = nn.Buffer(x.mean(0))

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        return {"scale": x.std()}

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.center + self.net(z), 1.0).to_event(1), obs=x)


class Wider(Net):
    """A model made from another."""

    depth: int = 1


@zoo.model(flips=zoo.Binary("toss"))
def coin(flips: Tensor, *, a: float = 1.0, b: float = 1.0) -> None:
    heads = pyro.sample("heads", dist.Beta(a, b))
    with pyro.plate("toss", len(flips)):
        pyro.sample("flips", dist.Bernoulli(heads), obs=flips)


@zoo.model(x=Real("row"), y=Real("row"))
def line(x: Tensor, y: Tensor, *, scale: float) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, scale))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


geyser = zoo.datasets.load("faithful")
result: Fit = fit(zoo.GMM(components=2), geyser, method=EM(restarts=3), seed=0)
fit(coin, [1, 0, 1], method="exact", seed=0)
fit(coin(a=2.0), {"flips": [1, 0, 1]}, method=Exact())
fit(line(scale=2.0), {"x": [1.0], "y": [2.0]}, method=NUTS(chains=2))
fit(Quakes, torch.ones(3), method=MAP, device="cpu", dtype=torch.float64, progress=False)
fit("gmm", "faithful", method=EM, weights=geyser["eruptions"])
fit(Net(latent=2), geyser.to_numpy(), method=SVI(guide=Encoder(hidden=(4,)), steps=3))
fit(EightSchools(scale=2), geyser, method=SVI(guide=MeanField("theta") & FullRank("mu", "tau")))
table = compare(
    zoo.BayesianGMM(components=2),
    geyser,
    methods=["em", CAVI(), Laplace(), Pathfinder(), SVI(guide=LowRank(2))],
    seed=0,
)
best: Fit = table["svi"]
number: float = result.objective.value + len(result.assign()) + result.log_prob().sum() + result.trace["value"].max()
text: str = zoo.explain(Quakes(), [1, 2]) + result.reason + str(result.posterior) + str(result.summary())
models = [zoo.LatentClass(1), zoo.VAE(hidden=(3, 4)), Wider(latent=2, depth=3), zoo.MixtureOfRegressions(components=2)]
count: int = zoo.GMM(covariance="diag").components + len(zoo.models()) + Wider(latent=2).depth
bits = result.decode(result.encode(geyser)["z"].to_numpy(), condition={"label": 3})["x"].to_numpy() + number
path = result.interpolate(geyser.head(1), result.encode(geyser.tail(1)), steps=3), result.traverse("a", steps=3)
table_of_rows = result.anomaly(geyser)["kl"].sum() + result.rate_distortion()["nats"].max() + result.active_units()
result.annealed_log_prob(geyser, chains=4).attrs["accepted"]
result.draw_codes(labels=[1, 2]).savefig("codes.png")
result.generate(3, condition={"label": "a"})
Fit.load(result.save("folder", local=True), model=Quakes)
Fit.load("folder", model=coin)
zoo.stream("rows.parquet", chunk=10)
zoo.MarkovChain(torch.ones(2), torch.ones(2, 2))

zoo.GMM(component=3)  # wrong
EM(restart=3)  # wrong
zoo.GMM(covariance="diagonal")  # wrong
zoo.GMM(components="two")  # wrong
zoo.GMN()  # wrong
zoo.VAE(x=3)  # wrong
result.encode(draw=3)  # wrong
zoo.Category("row", level=3)  # wrong
zoo.datasets.laod("faithful")  # wrong
zoo.stream("rows.csv", chunks=3)  # wrong
Quakes(kind=3)  # wrong
Quakes(kinds="three")  # wrong
Quakes(count=3)  # wrong
EightSchools(scales=3.0)  # wrong
Net()  # wrong
Wider(latent=2, height=3)  # wrong
coin(c=3)  # wrong
coin(a="high")  # wrong
line()  # wrong
SVI(step=3)  # wrong
NUTS(chain=3)  # wrong
MeanField(site="x")  # wrong
Custom()  # wrong
MeanField() & "mu"  # wrong
fit(zoo.GMM(), geyser, methd="em")  # wrong
fit(3, geyser, method="em")  # wrong
compare(zoo.GMM(), geyser, method=["em"])  # wrong
result.asign()  # wrong
print(result.objective.vlaue)  # wrong

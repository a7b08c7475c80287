"""A lecture: one mixture by EM, CAVI, SVI, Laplace, SMC and NUTS. Whom to believe, and how one knows."""

from __future__ import annotations

from pathlib import Path

import zoo
from inference import NUTS, calibrate, compare

WAITING = zoo.datasets.load("faithful")[["waiting"]].iloc[::4]
MODEL = zoo.BayesianGMM(components=2)

# The referee first: its draws are the reference. States are exchangeable, so labels may switch; relabelling mends that.
referee = compare(MODEL, WAITING, methods={"nuts": NUTS(chains=2, warmup=300, draws=1000)}, seed=0)["nuts"].relabelled()
print(referee)

# Everyone else, under the referee's labels: errors of means in posterior standard deviations, and ratios of spreads.
table = compare(MODEL, WAITING, methods=["em", "cavi", "svi", "laplace", "smc"], seed=1, reference=referee)
print(table)
print(table.table[["error_mean", "error_mean_se", "worst", "sd_ratio"]].round(3).to_string())

# Do credible intervals by CAVI hold what they say, on average over data that the model itself makes?
print(calibrate(MODEL, "cavi", like=WAITING.iloc[:30], simulations=40, seed=0))

print("report:", table.report(Path("runs") / "one_mixture.html"))

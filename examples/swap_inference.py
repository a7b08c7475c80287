"""One model, several methods: a Bayesian mixture of Old Faithful's eruptions."""

import zoo
from guides import FullRank, MeanField
from inference import EM, MAP, SVI, compare

geyser = zoo.datasets.load("faithful")
table = compare(
    zoo.BayesianGMM(components=2),
    geyser,
    methods={
        "em": EM(),
        "map": MAP(),
        "mean field": SVI(guide=MeanField()),
        "full rank": SVI(guide=FullRank()),
        "exact": "exact",  # not legal here: its row says why
    },
    seed=0,
)
print(table)

assignments = {label: fitted.assign().to_numpy().max(axis=1) for label, fitted in table.fits.items()}
for label, certainty in assignments.items():
    print(f"{label}: {(certainty > 0.99).sum()} of {len(geyser)} eruptions assigned with more than 99 % probability")

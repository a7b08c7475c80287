"""A variational autoencoder with an amortized guide on 8 x 8 digits, scored on digits it has not seen."""

import numpy as np

import zoo
from guides import Encoder
from inference import SVI, fit

digits = (zoo.datasets.load("digits") >= 8).astype(int)
order = np.random.default_rng(0).permutation(len(digits))
train, test = digits.iloc[order[:1500]], digits.iloc[order[1500:]]

result = fit(zoo.VAE(latent=8), train, method=SVI(guide=Encoder()), seed=0)
print(result)

score = result.log_prob(test, samples=1000)  # the local latents integrated out by importance sampling
error = score.attrs["mcse_total"] / len(test)
print(f"test negative log likelihood: {-score.mean():.2f} +- {error:.2f} nats per digit")

share = train.mean().clip(0.5 / len(train), 1 - 0.5 / len(train))
independent = -(test * np.log(share) + (1 - test) * np.log(1 - share)).sum(axis=1).mean()
print(f"independent pixels:           {independent:.2f} nats per digit")

for row in result.generate(1).to_numpy().astype(int).reshape(8, 8):
    print("".join(".#"[pixel] for pixel in row))

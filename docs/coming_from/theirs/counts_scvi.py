"""A VAE of counts in scvi-tools: the bound of rows that were not trained on, in nats per row."""

import anndata
import numpy as np
import scvi

scvi.settings.seed = 0
rng = np.random.default_rng(0)
codes = rng.normal(size=(1200, 2))
rates = np.exp(0.7 * codes @ rng.normal(size=(2, 20)) + 1.0)
counts = rng.poisson(rates).astype("float32")

cells = anndata.AnnData(counts)
scvi.model.SCVI.setup_anndata(cells)
model = scvi.model.SCVI(
    cells, n_latent=2, n_hidden=64, n_layers=1, gene_likelihood="poisson", use_observed_lib_size=True, dropout_rate=0.0
)
model.train(
    max_epochs=300, train_size=1000 / 1200, shuffle_set_split=False, accelerator="cpu", enable_progress_bar=False
)
print(scvi.__version__, float(model.get_elbo(indices=np.arange(1000, 1200))))

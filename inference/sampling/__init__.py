"""The log density over the flat vector: climbed by L-BFGS, walked by chains."""

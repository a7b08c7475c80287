"""What scikit-learn estimators of models share; `inference/estimators.py` has them."""

"""Inference: methods that climb the bound, one per file, and what a fit can do."""

from inference.calibration import Calibration as Calibration
from inference.calibration import calibrate as calibrate
from inference.checking import Check as Check
from inference.checking import check as check
from inference.comparison import Comparison as Comparison
from inference.comparison import compare as compare
from inference.diagnostics.arviz import az as az
from inference.evidences import Evidence as Evidence
from inference.evidences import evidence as evidence
from inference.fitting import fit as fit
from inference.fitting import update as update
from inference.method import Method as Method
from inference.methods.cavi import CAVI as CAVI
from inference.methods.dadvi import DADVI as DADVI
from inference.methods.em import EM as EM
from inference.methods.exact import Exact as Exact
from inference.methods.laplace import Laplace as Laplace
from inference.methods.map import MAP as MAP
from inference.methods.nuts import NUTS as NUTS
from inference.methods.pathfinder import Pathfinder as Pathfinder
from inference.methods.smc import SMC as SMC
from inference.methods.svi import SVI as SVI
from inference.posterior.fit import Fit as Fit

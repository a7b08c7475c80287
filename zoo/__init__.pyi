"""A model zoo on Pyro: declare a generative latent-variable model once, get every inference method legal for it."""

from zoo import datasets as datasets
from zoo.bayesian_gmm import BayesianGMM as BayesianGMM
from zoo.bayesian_regression import BayesianRegression as BayesianRegression
from zoo.beta_bernoulli import BetaBernoulli as BetaBernoulli
from zoo.catalogue import models as models
from zoo.data.stream import stream as stream
from zoo.dawid_skene import DawidSkene as DawidSkene
from zoo.declare.fields import Binary as Binary
from zoo.declare.fields import Category as Category
from zoo.declare.fields import Count as Count
from zoo.declare.fields import Positive as Positive
from zoo.declare.fields import Real as Real
from zoo.declare.fields import UnitInterval as UnitInterval
from zoo.declare.function import model as model
from zoo.declare.model import Model as Model
from zoo.dirichlet_multinomial import DirichletMultinomial as DirichletMultinomial
from zoo.errors import DataError as DataError
from zoo.errors import FitError as FitError
from zoo.errors import MethodError as MethodError
from zoo.errors import ModelError as ModelError
from zoo.errors import UnknownNameError as UnknownNameError
from zoo.errors import ZooError as ZooError
from zoo.factor_analysis import FactorAnalysis as FactorAnalysis
from zoo.gamma_poisson import GammaPoisson as GammaPoisson
from zoo.gmm import GMM as GMM
from zoo.hidden_markov import HiddenMarkov as HiddenMarkov
from zoo.hierarchical_regression import HierarchicalRegression as HierarchicalRegression
from zoo.item_response import ItemResponse as ItemResponse
from zoo.kmeans import KMeans as KMeans
from zoo.latent_class import LatentClass as LatentClass
from zoo.linear_dynamical_system import LinearDynamicalSystem as LinearDynamicalSystem
from zoo.logistic_regression import LogisticRegression as LogisticRegression
from zoo.mixture_of_experts import MixtureOfExperts as MixtureOfExperts
from zoo.mixture_of_regressions import MixtureOfRegressions as MixtureOfRegressions
from zoo.normal_normal import NormalNormal as NormalNormal
from zoo.poisson_mixture import PoissonMixture as PoissonMixture
from zoo.poisson_regression import PoissonRegression as PoissonRegression
from zoo.ppca import PPCA as PPCA
from zoo.program.explain import explain as explain
from zoo.replay.chain import MarkovChain as MarkovChain
from zoo.replay.gaussian_chain import LinearGaussianChain as LinearGaussianChain
from zoo.student_t_mixture import StudentTMixture as StudentTMixture
from zoo.vae import VAE as VAE
from zoo.zero_inflated_poisson import ZeroInflatedPoisson as ZeroInflatedPoisson

__version__: str

"""Guides: families for q over the latents that are not enumerated, one per file."""

from guides.by_state import ByState as ByState
from guides.classifying_encoder import ClassifyingEncoder as ClassifyingEncoder
from guides.conjugate import Conjugate as Conjugate
from guides.custom import Custom as Custom
from guides.encoder import Encoder as Encoder
from guides.flow import Flow as Flow
from guides.full_rank import FullRank as FullRank
from guides.guide import Guide as Guide
from guides.guide import Guides as Guides
from guides.laplace import Laplace as Laplace
from guides.low_rank import LowRank as LowRank
from guides.mean_field import MeanField as MeanField
from guides.point import Point as Point

"""Networks for models and guides: small blocks, each with its source.

All of them map the last dimensions of a tensor, whatever stands on the left of these: rows, states that are summed out,
draws.
"""

from zoo.networks.convolutions import ConvDecoder as ConvDecoder
from zoo.networks.convolutions import ConvEncoder as ConvEncoder
from zoo.networks.convolutions import MaskedConv2d as MaskedConv2d
from zoo.networks.convolutions import MaskedConvolutions as MaskedConvolutions
from zoo.networks.convolutions import ResidualBlock as ResidualBlock
from zoo.networks.perceptrons import MLP as MLP
from zoo.networks.perceptrons import MaskedLinear as MaskedLinear
from zoo.networks.perceptrons import MaskedMLP as MaskedMLP
from zoo.networks.sequences import AttentionBlock as AttentionBlock
from zoo.networks.sequences import CausalAttention as CausalAttention
from zoo.networks.sequences import Depth as Depth
from zoo.networks.sequences import Recurrent as Recurrent

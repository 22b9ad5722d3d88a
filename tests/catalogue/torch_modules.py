"""torch.nn's own modules: each as the root where it has parameters, and within a network."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.catalogue.entries import Group, Inputs, Make, normal, positive

ROOTS = Group("torch.nn, as the root")
WITHIN = Group("torch.nn, within a network")
GROUPS = (ROOTS, WITHIN)

Adapt = Callable[[Tensor], Tensor]


def tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [x for each in value for x in tensors(each)] if isinstance(value, tuple) else []


class Between(nn.Module):
    """A layer below the module's first input, and one above each of its outputs."""

    def __init__(self, module: nn.Module, inputs: Any, adapt: Adapt) -> None:
        super().__init__()
        first, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
        is_below = first.is_floating_point()
        self.below = nn.Linear(first.shape[-1], first.shape[-1]) if is_below else None
        self.module, self.adapt = module, adapt
        with torch.no_grad():
            x = first if self.below is None else adapt(self.below(first))
            found = tensors(module(x, *rest))
        self.above = nn.ModuleList(nn.Linear(x.shape[-1] if x.ndim else 1, 2) for x in found)

    def forward(self, first: Tensor, *rest: Any) -> list[Tensor]:
        x = first if self.below is None else self.adapt(self.below(first))
        found = tensors(self.module(x, *rest))
        pairs = zip(self.above, found, strict=True)
        return [above(y if y.ndim else y[None]).tanh() for above, y in pairs]


def as_it_is(x: Tensor) -> Tensor:
    """Nothing between the layer below and the module, which may then write on what it is given."""
    return x


def add(
    name: str,
    make: Make,
    inputs: Inputs,
    train: bool = False,
    adapt: Adapt = torch.tanh,
) -> None:
    """List a module as the root, if it has parameters, and within a network."""

    def within() -> nn.Module:
        return Between(make(), inputs(), adapt)

    def root() -> nn.Module:
        module = make()
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters()):
            with torch.no_grad():
                module(inputs())
        return module

    if _has_parameters(make):
        ROOTS.add(name, root, inputs, train=train)
    WITHIN.add(name, within, inputs, train=train)


def _has_parameters(make: Make) -> bool:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(True for _ in make().parameters())


LINE, IMAGE, VOLUME = (3, 4, 8), (2, 4, 6, 6), (2, 4, 4, 4, 4)
BY_DIMENSION = {1: normal(LINE), 2: normal(IMAGE), 3: normal(VOLUME)}


def of_each_dimension(
    name: str, *args: Any, also: str = "", dimensions: tuple[int, ...] = (1, 2, 3), **settings: Any
) -> None:
    """List a module of one, two and three dimensions."""
    train = settings.pop("train", False)
    for d in dimensions:
        kind = getattr(nn, f"{name}{d}d")

        def make(kind: Any = kind) -> nn.Module:
            return kind(*args, **settings)

        add(f"{name}{d}d{also}", make, BY_DIMENSION[d], train)


# Linear

add("Identity", nn.Identity, normal((3, 4)))
add("Linear", lambda: nn.Linear(4, 3), normal((3, 4)))
add("Linear without a bias", lambda: nn.Linear(4, 3, bias=False), normal((3, 5, 4)))
add("LazyLinear", lambda: nn.LazyLinear(3), normal((3, 4)))
add("Bilinear", lambda: nn.Bilinear(4, 5, 3), normal((3, 4), (3, 5)))

# Convolutions

of_each_dimension("Conv", 4, 3, 3)
of_each_dimension("Conv", 4, 6, 3, also=", strided", stride=2, padding=1, groups=2, bias=False)
of_each_dimension("Conv", 4, 3, 3, also=", circular", padding=1, padding_mode="circular")
of_each_dimension("Conv", 4, 3, 3, also=", reflecting", padding="same", padding_mode="reflect")
of_each_dimension("ConvTranspose", 4, 3, 3)
of_each_dimension("ConvTranspose", 4, 2, 3, also=", strided", stride=2, output_padding=1, groups=2)
of_each_dimension("LazyConv", 3, 3)
of_each_dimension("LazyConvTranspose", 3, 3)
add("Conv2d without a batch", lambda: nn.Conv2d(4, 3, 3), normal((4, 6, 6)))
add("Unfold", lambda: nn.Unfold(3, padding=1), normal(IMAGE))
add("Fold", lambda: nn.Fold((4, 4), 2, stride=2), normal((2, 8, 4)))

# Pooling and padding

of_each_dimension("MaxPool", 2)
of_each_dimension("MaxPool", 3, also=", overlapping", stride=1, padding=1)
of_each_dimension("AvgPool", 2)
of_each_dimension("LPPool", 2, 2)
of_each_dimension("AdaptiveMaxPool", 2)
of_each_dimension("AdaptiveAvgPool", 2)
of_each_dimension("FractionalMaxPool", 2, dimensions=(2, 3), output_size=2)
of_each_dimension("ReflectionPad", 1)
of_each_dimension("ReplicationPad", 1)
of_each_dimension("ZeroPad", 1)
of_each_dimension("ConstantPad", 1, 0.5)
of_each_dimension("CircularPad", 1)


class Unpooled(nn.Module):
    """Max pooling, and back to where the maxima were."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{dimensions}d")(2, return_indices=True)
        kinds = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}
        self.unpool = kinds[dimensions](2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unpool(*self.pool(x))


for _d in (1, 2, 3):
    add(f"MaxUnpool{_d}d", lambda d=_d: Unpooled(d), BY_DIMENSION[_d])

# Activations

_ACTIVATIONS = [
    "ELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardtanh",
    "Hardswish",
    "LeakyReLU",
    "LogSigmoid",
    "PReLU",
    "ReLU",
    "ReLU6",
    "RReLU",
    "SELU",
    "CELU",
    "GELU",
    "Sigmoid",
    "SiLU",
    "Mish",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Softmin",
    "Softmax",
    "LogSoftmax",
    "GLU",
]
_IN_PLACE = [
    "ELU",
    "Hardsigmoid",
    "Hardtanh",
    "Hardswish",
    "LeakyReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "CELU",
    "SiLU",
    "Mish",
]
for _name in _ACTIVATIONS:
    _kind = getattr(nn, _name)
    _takes_dim = _name in ("Softmin", "Softmax", "LogSoftmax")
    add(_name, lambda k=_kind, s=_takes_dim: k(dim=-1) if s else k(), normal((3, 4)))
for _name in _IN_PLACE:
    add(
        f"{_name}, in place",
        lambda n=_name: getattr(nn, n)(inplace=True),
        normal((3, 4)),
        adapt=as_it_is,
    )
add("PReLU by channel", lambda: nn.PReLU(4), normal(IMAGE))
add("RReLU, training", nn.RReLU, normal((3, 4)), train=True)
add("GELU by tanh", lambda: nn.GELU("tanh"), normal((3, 4)))
add("Threshold", lambda: nn.Threshold(0.1, -2.0), normal((3, 4)))
add("Softmax2d", nn.Softmax2d, normal(IMAGE))
add(
    "AdaptiveLogSoftmaxWithLoss",
    lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 10, [3, 6], head_bias=True),
    lambda: (torch.randn(12, 16), torch.arange(12) % 10),
)
add(
    "AdaptiveLogSoftmaxWithLoss, its last cluster projected to nothing",
    lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 10, [3, 6]),
    lambda: (torch.randn(12, 6), torch.arange(12) % 10),
)

# Normalisation and dropout

for _train in (False, True):
    _mode = ", training" if _train else ""
    of_each_dimension("BatchNorm", 4, also=_mode, train=_train)
    of_each_dimension("LazyBatchNorm", also=_mode, train=_train)
    of_each_dimension(
        "InstanceNorm", 4, also=_mode, train=_train, affine=True, track_running_stats=True
    )
of_each_dimension("BatchNorm", 4, also=" without statistics", track_running_stats=False)
of_each_dimension("InstanceNorm", 4, also=" without parameters")
of_each_dimension("LazyInstanceNorm", affine=True)
add("BatchNorm1d of vectors, training", lambda: nn.BatchNorm1d(4), normal((5, 4)), train=True)
add("SyncBatchNorm", lambda: nn.SyncBatchNorm(4), normal(IMAGE))
add("LayerNorm", lambda: nn.LayerNorm(4), normal((3, 5, 4)))
add("LayerNorm of maps", lambda: nn.LayerNorm([4, 6, 6]), normal(IMAGE))
add("GroupNorm", lambda: nn.GroupNorm(2, 4), normal(IMAGE))
add("RMSNorm", lambda: nn.RMSNorm(4), normal((3, 5, 4)))
add("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), normal(IMAGE))
add("CrossMapLRN2d", lambda: nn.CrossMapLRN2d(3), normal(IMAGE))
add("Dropout, training", lambda: nn.Dropout(0.3), normal((3, 4)), train=True)
add(
    "Dropout in place, training",
    lambda: nn.Dropout(0.3, inplace=True),
    normal((3, 4)),
    train=True,
    adapt=as_it_is,
)
of_each_dimension("Dropout", 0.3, also=", training", train=True)
add("AlphaDropout, training", lambda: nn.AlphaDropout(0.3), normal((3, 4)), train=True)
add("FeatureAlphaDropout, training", lambda: nn.FeatureAlphaDropout(0.3), normal(IMAGE), train=True)

# Recurrent modules

SEQUENCE = normal((5, 3, 4))
for _kind in (nn.RNN, nn.LSTM, nn.GRU):
    _name = _kind.__name__
    add(_name, lambda k=_kind: k(4, 5), SEQUENCE)
    add(
        f"{_name}, two layers, bidirectional, batch first",
        lambda k=_kind: k(4, 3, num_layers=2, bidirectional=True, batch_first=True),
        SEQUENCE,
    )
    add(
        f"{_name}, dropout, training",
        lambda k=_kind: k(4, 5, num_layers=2, dropout=0.3, bias=False),
        SEQUENCE,
        train=True,
    )
    add(f"{_name} without a batch", lambda k=_kind: k(4, 5), normal((5, 4)))
add("LSTM, projected", lambda: nn.LSTM(4, 5, proj_size=3), SEQUENCE)
add("RNN of ReLU", lambda: nn.RNN(4, 5, nonlinearity="relu"), SEQUENCE)
add("GRU from a state", lambda: nn.GRU(4, 5), normal((5, 3, 4), (1, 3, 5)))
add("RNNCell", lambda: nn.RNNCell(4, 5), normal((3, 4)))
add(
    "RNNCell of ReLU from a state",
    lambda: nn.RNNCell(4, 5, nonlinearity="relu"),
    normal((3, 4), (3, 5)),
)
add("LSTMCell", lambda: nn.LSTMCell(4, 5), normal((3, 4)))
add(
    "LSTMCell from a state",
    lambda: nn.LSTMCell(4, 5),
    lambda: (torch.randn(3, 4), (torch.randn(3, 5), torch.randn(3, 5))),
)
add("GRUCell", lambda: nn.GRUCell(4, 5), normal((3, 4)))


class OfPacked(nn.Module):
    """A recurrent module over sequences of unequal lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        out, (h, _) = self.rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0], h


add("LSTM of a packed sequence", OfPacked, lambda: (torch.randn(3, 5, 4), torch.tensor([5, 3, 2])))

# Transformers

WORDS = normal((3, 5, 8))


def _layer(kind: Any, **settings: Any) -> Make:
    def make() -> nn.Module:
        return kind(8, 2, 12, batch_first=True, **settings)

    return make


for _train in (False, True):
    _mode = ", training" if _train else ""
    add(f"TransformerEncoderLayer{_mode}", _layer(nn.TransformerEncoderLayer), WORDS, _train)
    add(
        f"TransformerDecoderLayer{_mode}",
        _layer(nn.TransformerDecoderLayer),
        normal((3, 4, 8), (3, 5, 8)),
        _train,
    )
    add(
        f"TransformerEncoder{_mode}",
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
            2,
            norm=nn.LayerNorm(8),
            enable_nested_tensor=False,
        ),
        WORDS,
        _train,
    )
    add(
        f"TransformerDecoder{_mode}",
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, batch_first=True), 2),
        normal((3, 4, 8), (3, 5, 8)),
        _train,
    )
    add(
        f"Transformer{_mode}",
        lambda: nn.Transformer(8, 2, 1, 1, 12, batch_first=True),
        normal((3, 5, 8), (3, 4, 8)),
        _train,
    )
add(
    "TransformerEncoderLayer, norm first, GELU",
    _layer(nn.TransformerEncoderLayer, norm_first=True, activation="gelu"),
    WORDS,
)
add(
    "TransformerEncoderLayer, masked",
    _layer(nn.TransformerEncoderLayer),
    lambda: (torch.randn(3, 5, 8), nn.Transformer.generate_square_subsequent_mask(5)),
)
add("MultiheadAttention", lambda: nn.MultiheadAttention(8, 2), normal(*[(5, 3, 8)] * 3))
add(
    "MultiheadAttention, batch first, of other widths",
    lambda: nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=6, add_bias_kv=True),
    normal((3, 5, 8), (3, 7, 4), (3, 7, 6)),
)
add(
    "MultiheadAttention, dropout, training",
    lambda: nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True),
    normal(*[(3, 5, 8)] * 3),
    train=True,
)
add(
    "MultiheadAttention, padded",
    lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    lambda: (*torch.randn(3, 3, 5, 8), torch.arange(5) > torch.tensor([[4], [3], [2]])),
)

# Embeddings

IDS = torch.tensor([[1, 2, 4], [4, 3, 0]])
add("Embedding", lambda: nn.Embedding(6, 4), IDS.clone)
add("Embedding with padding", lambda: nn.Embedding(6, 4, padding_idx=0), IDS.clone)
add("Embedding with max_norm", lambda: nn.Embedding(6, 4, max_norm=1.0), IDS.clone)
add("Embedding, sparse", lambda: nn.Embedding(6, 4, sparse=True), IDS.clone)
add("Embedding by frequency", lambda: nn.Embedding(6, 4, scale_grad_by_freq=True), IDS.clone)
for _mode in ("sum", "mean", "max"):
    add(f"EmbeddingBag, {_mode}", lambda m=_mode: nn.EmbeddingBag(6, 4, mode=m), IDS.clone)
add(
    "EmbeddingBag with offsets",
    lambda: nn.EmbeddingBag(6, 4, mode="sum"),
    lambda: (IDS.flatten(), torch.tensor([0, 2, 3])),
)

# Shapes

add("Flatten", nn.Flatten, normal(IMAGE))
add("Unflatten", lambda: nn.Unflatten(1, (2, 2)), normal((3, 4)))
add("PixelShuffle", lambda: nn.PixelShuffle(2), normal(IMAGE))
add("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), normal(IMAGE))
add("ChannelShuffle", lambda: nn.ChannelShuffle(2), normal(IMAGE))
for _mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact"):
    add(f"Upsample, {_mode}", lambda m=_mode: nn.Upsample(scale_factor=2, mode=m), normal(IMAGE))
add("Upsample, linear", lambda: nn.Upsample(12, mode="linear"), normal(LINE))
add("Upsample, trilinear", lambda: nn.Upsample(size=5, mode="trilinear"), normal(VOLUME))
add("UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=2), normal(IMAGE))
add("UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d(scale_factor=2), normal(IMAGE))

# Distances and losses, as the last step of a module

PAIR = normal((3, 4), (3, 4))
SIGNS = torch.tensor([1.0, -1.0, 1.0])
CLASSES = torch.tensor([0, 3, 1])


def _with(x: Tensor, shape: tuple[int, ...] = (3, 4)) -> Inputs:
    return lambda: (
        torch.randn(shape),
        x.to(torch.get_default_dtype()) if x.is_floating_point() else x,
    )


add("CosineSimilarity", nn.CosineSimilarity, PAIR)
add("PairwiseDistance", nn.PairwiseDistance, PAIR)
for _kind in (nn.L1Loss, nn.MSELoss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss):
    add(_kind.__name__, _kind, PAIR)
add("SoftMarginLoss", nn.SoftMarginLoss, _with(torch.ones(3, 4)))
add("HingeEmbeddingLoss", nn.HingeEmbeddingLoss, _with(torch.ones(3, 4)))
add("CrossEntropyLoss", lambda: nn.CrossEntropyLoss(label_smoothing=0.1), _with(CLASSES))
add("NLLLoss", nn.NLLLoss, _with(CLASSES), adapt=lambda x: x.log_softmax(-1))
add("MultiMarginLoss", nn.MultiMarginLoss, _with(CLASSES))
add("MultiLabelMarginLoss", nn.MultiLabelMarginLoss, _with(torch.tensor([[3, 0, -1, 1]] * 3)))
add("MultiLabelSoftMarginLoss", nn.MultiLabelSoftMarginLoss, _with(torch.ones(3, 4)))
add("BCEWithLogitsLoss", nn.BCEWithLogitsLoss, _with(torch.full((3, 4), 0.3)))
add("BCELoss", nn.BCELoss, positive((3, 4), (3, 4)), adapt=torch.sigmoid)
add(
    "KLDivLoss",
    lambda: nn.KLDivLoss(reduction="batchmean"),
    positive((3, 4), (3, 4)),
    adapt=lambda x: x.log_softmax(-1),
)
add("GaussianNLLLoss", nn.GaussianNLLLoss, positive((3, 4), (3, 4), (3, 4)))
add(
    "MarginRankingLoss",
    lambda: nn.MarginRankingLoss(margin=3.0),
    lambda: (torch.randn(3, 1), torch.randn(3, 1), SIGNS[:, None]),
)
add(
    "CosineEmbeddingLoss",
    nn.CosineEmbeddingLoss,
    lambda: (torch.randn(3, 4), torch.randn(3, 4), SIGNS),
)
add("TripletMarginLoss", nn.TripletMarginLoss, normal(*[(3, 4)] * 3))
add("TripletMarginWithDistanceLoss", nn.TripletMarginWithDistanceLoss, normal(*[(3, 4)] * 3))
add(
    "CTCLoss",
    nn.CTCLoss,
    lambda: (
        torch.randn(6, 2, 5),
        torch.tensor([[1, 2, 3], [4, 1, 2]]),
        torch.tensor([6, 5]),
        torch.tensor([3, 2]),
    ),
    adapt=lambda x: x.log_softmax(-1),
)
if hasattr(nn, "LinearCrossEntropyLoss"):
    add("LinearCrossEntropyLoss", lambda: nn.LinearCrossEntropyLoss(4, 5), _with(CLASSES))

# Parametrisations and pruning


def _with_part(make: Make, change: Callable[[Any], Any]) -> Make:
    def made() -> nn.Module:
        module = make()
        change(module)
        return module

    return made


class Symmetric(nn.Module):
    """A parametrisation of one's own."""

    def forward(self, W: Tensor) -> Tensor:
        return W.triu() + W.triu(1).mT


def _linear() -> nn.Module:
    return nn.Linear(4, 4)


for _train in (False, True):
    _mode = ", training" if _train else ""
    add(
        f"spectral norm{_mode}",
        _with_part(_linear, parametrizations.spectral_norm),
        normal((3, 4)),
        _train,
    )
    add(
        f"spectral norm by hooks{_mode}",
        _with_part(_linear, nn.utils.spectral_norm),
        normal((3, 4)),
        _train,
    )
add("weight norm", _with_part(_linear, parametrizations.weight_norm), normal((3, 4)))
add(
    "weight norm of a convolution",
    _with_part(lambda: nn.Conv2d(4, 3, 3), parametrizations.weight_norm),
    normal(IMAGE),
)
add("weight norm by hooks", _with_part(_linear, nn.utils.weight_norm), normal((3, 4)))
add("orthogonal weights", _with_part(_linear, parametrizations.orthogonal), normal((3, 4)))
add(
    "orthogonal weights by Cayley's map",
    _with_part(_linear, lambda m: parametrizations.orthogonal(m, orthogonal_map="cayley")),
    normal((3, 4)),
)
add(
    "symmetric weights",
    _with_part(_linear, lambda m: parametrize.register_parametrization(m, "weight", Symmetric())),
    normal((3, 4)),
)
add(
    "pruned weights",
    _with_part(_linear, lambda m: prune.l1_unstructured(m, "weight", amount=0.5)),
    normal((3, 4)),
)

# Containers

add(
    "Sequential",
    lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
    normal((3, 4)),
)
add("DataParallel", lambda: nn.DataParallel(nn.Linear(4, 5)), normal((3, 4)))


class OfList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


class OfDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"left": nn.Linear(4, 4), "right": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.tanh(layer(x)) for layer in self.layers.values()], -1)


class OfParameterList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for W in self.weights:
            x = torch.tanh(x @ W)
        return x


class OfParameterDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ParameterDict({"W": torch.randn(4, 4), "b": torch.randn(4)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(torch.addmm(self.own["b"], x, self.own["W"]))


add("ModuleList", OfList, normal((3, 4)))
add("ModuleDict", OfDict, normal((3, 4)))
add("ParameterList", OfParameterList, normal((3, 4)))
add("ParameterDict", OfParameterDict, normal((3, 4)))

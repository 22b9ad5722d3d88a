"""Modules of other libraries: tiny, with random weights, made without a network.

Each library is imported only when one of its modules is made.
"""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tests.catalogue.entries import Group, Inputs, normal, positive, tokens

TRANSFORMERS = Group("transformers", needs="transformers")
TIMM = Group("timm", needs="timm")
VIT_PYTORCH = Group("vit-pytorch", needs="vit-pytorch")
X_TRANSFORMERS = Group("x-transformers", needs="x-transformers")
SPIKING = Group("snntorch, norse, ncps")
MONAI = Group("monai", needs="monai")
GEOMETRIC = Group("torch_geometric", needs="torch-geometric")
OTHERS = Group("other libraries")
GROUPS = (
    TRANSFORMERS,
    TIMM,
    VIT_PYTORCH,
    X_TRANSFORMERS,
    SPIKING,
    MONAI,
    GEOMETRIC,
    OTHERS,
)

SINGLE: dict[str, Any] = {"dtype": torch.float32, "tolerance": 1e-4}

# transformers

TEXT: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 3,
}


def ids() -> dict[str, Tensor]:
    """Token ids, the end of one sentence padded."""
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(3, 30, (2, 6)), "attention_mask": mask}


def pixels() -> dict[str, Tensor]:
    """Images, [2, 3, 16, 16]."""
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def transformer(
    model: str,
    inputs: Inputs,
    train: bool = False,
    is_single: bool = False,
    also: str = "",
    **config: Any,
) -> None:
    """List a model; the name of its configuration is that of the model up to its head.

    Args:
        is_single: whether it can only run in float32.
        also: what is special about it.
    """
    stem = model.split("For")[0].removesuffix("Model").removesuffix("LMHead")

    def make() -> nn.Module:
        library = import_module("transformers")
        return getattr(library, model)(getattr(library, f"{stem}Config")(**config))

    called = model + also + (", training" if train else "") + (" (float32)" if is_single else "")
    precision = SINGLE if is_single else {}
    TRANSFORMERS.add(called, make, inputs, train=train, **precision)


transformer("BertModel", ids, **TEXT)
transformer(
    "BertModel",
    lambda: ids() | {"output_hidden_states": True, "output_attentions": True},
    also=", all its hidden states",
    **TEXT,
)
transformer("BertForSequenceClassification", ids, train=True, **TEXT)
transformer("RobertaForTokenClassification", ids, **TEXT | {"max_position_embeddings": 20})
transformer("AlbertModel", ids, embedding_size=8, **TEXT)
transformer("ElectraForPreTraining", ids, embedding_size=8, **TEXT)
transformer(
    "DistilBertModel",
    ids,
    vocab_size=30,
    dim=16,
    n_layers=2,
    n_heads=2,
    hidden_dim=24,
    max_position_embeddings=16,
)
transformer("DebertaV2Model", ids, **TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"])
transformer("FNetModel", lambda: {"input_ids": torch.randint(3, 30, (2, 6))}, **TEXT)
transformer("GPT2LMHeadModel", ids, vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16)
transformer("GPTNeoXForCausalLM", ids, **TEXT)
transformer("LlamaForCausalLM", ids, **TEXT, num_key_value_heads=1)
transformer("MistralForCausalLM", ids, **TEXT, num_key_value_heads=1, sliding_window=3)
transformer(
    "MixtralForCausalLM", ids, is_single=True, **TEXT, num_key_value_heads=1, num_local_experts=3
)
transformer("Qwen2ForCausalLM", ids, **TEXT, num_key_value_heads=2)
transformer("GemmaForCausalLM", ids, **TEXT, num_key_value_heads=1, head_dim=8)
transformer("PhiForCausalLM", ids, **TEXT)
transformer("OPTForCausalLM", ids, **TEXT, ffn_dim=24, word_embed_proj_dim=16)
transformer("BloomForCausalLM", ids, vocab_size=30, hidden_size=16, n_layer=2, n_head=2)
transformer("FalconForCausalLM", ids, **TEXT)
transformer("XLNetModel", ids, vocab_size=30, d_model=16, n_layer=2, n_head=2, d_inner=24)
transformer(
    "MambaForCausalLM",
    tokens(30, 2, 6),
    vocab_size=30,
    hidden_size=8,
    state_size=4,
    num_hidden_layers=2,
)
transformer(
    "T5ForConditionalGeneration",
    lambda: ids() | {"labels": torch.randint(3, 30, (2, 5))},
    vocab_size=30,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=2,
    num_heads=2,
    decoder_start_token_id=0,
)
transformer(
    "BartForConditionalGeneration",
    lambda: ids() | {"labels": torch.randint(3, 30, (2, 5))},
    vocab_size=30,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_position_embeddings=16,
)
transformer("ViTForImageClassification", pixels, **VISION)
transformer("DeiTForImageClassification", pixels, **VISION)
transformer("BeitForImageClassification", pixels, **VISION)
transformer("Dinov2Model", pixels, **VISION)
transformer(
    "ViTMAEForPreTraining",
    pixels,
    **VISION,
    decoder_hidden_size=8,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=12,
)
transformer(
    "ResNetForImageClassification",
    pixels,
    train=True,
    embedding_size=4,
    hidden_sizes=[4, 6],
    depths=[1, 1],
    layer_type="basic",
)
transformer(
    "ConvNextForImageClassification", pixels, hidden_sizes=[4, 6], depths=[1, 1], num_stages=2
)
transformer("MobileNetV2ForImageClassification", pixels, depth_multiplier=0.1, image_size=16)
transformer(
    "SwinForImageClassification",
    pixels,
    image_size=16,
    patch_size=2,
    embed_dim=8,
    depths=[2, 1],
    num_heads=[2, 2],
    window_size=4,
)
transformer(
    "SegformerForSemanticSegmentation",
    pixels,
    num_encoder_blocks=2,
    depths=[1, 1],
    sr_ratios=[2, 1],
    hidden_sizes=[8, 12],
    patch_sizes=[3, 3],
    strides=[2, 2],
    num_attention_heads=[1, 2],
    mlp_ratios=[2, 2],
    decoder_hidden_size=8,
)
transformer(
    "CLIPModel",
    lambda: ids() | pixels(),
    projection_dim=8,
    text_config={**TEXT},
    vision_config={**VISION},
)
transformer(
    "Wav2Vec2ForCTC",
    lambda: {"input_values": torch.randn(2, 80)},
    **TEXT,
    conv_dim=(8, 8),
    conv_stride=(2, 2),
    conv_kernel=(4, 3),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)
transformer(
    "WhisperForConditionalGeneration",
    lambda: {
        "input_features": torch.randn(2, 6, 16),
        "decoder_input_ids": torch.randint(3, 30, (2, 4)),
    },
    vocab_size=30,
    num_mel_bins=6,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_source_positions=8,
    max_target_positions=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
transformer(
    "DecisionTransformerModel",
    lambda: {
        "states": torch.randn(2, 4, 3),
        "actions": torch.randn(2, 4, 2),
        "rewards": torch.randn(2, 4, 1),
        "returns_to_go": torch.randn(2, 4, 1),
        "timesteps": torch.arange(4).expand(2, 4),
    },
    state_dim=3,
    act_dim=2,
    hidden_size=16,
    n_layer=2,
    n_head=2,
    max_ep_len=8,
)

# timm


def image_model(name: str, size: int = 32, train: bool = False, **settings: Any) -> None:
    """List one of timm's models."""

    def make() -> nn.Module:
        return import_module("timm").create_model(name, num_classes=3, **settings)

    called = f"{name}, training" if train else name
    TIMM.add(called, make, normal((2, 3, size, size)), train=train)


def image_class(module: str, name: str, **settings: Any) -> None:
    """List a class of timm's, with sizes that its named models don't have."""

    def make() -> nn.Module:
        kind = getattr(import_module(f"timm.models.{module}"), name)
        return kind(num_classes=3, **settings)

    TIMM.add(name, make, normal((2, 3, 32, 32)))


TINY_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
STAGES: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 8)}
image_model("vit_tiny_patch16_224", **TINY_VIT)
image_model("vit_tiny_patch16_224", train=True, **TINY_VIT, drop_path_rate=0.3, proj_drop_rate=0.1)
image_model("deit_tiny_distilled_patch16_224", **TINY_VIT)
image_model("cait_xxs24_224", **TINY_VIT, init_values=0.1)
image_model("convnext_atto", **STAGES)
image_model("convnextv2_atto", **STAGES)
image_model("resnet18", layers=(1, 1, 1, 1), channels=(4, 6, 8, 8), stem_width=4)
image_model("resnet18", train=True, layers=(1, 1, 1, 1), channels=(4, 6, 8, 8), drop_path_rate=0.3)
image_model("resnetv2_50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), stem_chs=4)
image_model("densenet121", growth_rate=4, block_config=(1, 1, 1, 1))
image_class("mlp_mixer", "MlpMixer", img_size=32, patch_size=8, num_blocks=2, embed_dim=16)
image_class("convmixer", "ConvMixer", dim=8, depth=2, kernel_size=3, patch_size=4)
image_class("metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(4, 6, 8, 8))
image_model("lcnet_035")
for _name in ["byobnet", "convnext", "efficientnet", "mambaout", "nfnet", "resnet", "vit4"]:
    image_model(f"test_{_name}")
image_model("test_efficientnet", train=True)
image_model(
    "swin_tiny_patch4_window7_224",
    img_size=32,
    patch_size=4,
    window_size=4,
    embed_dim=8,
    depths=(2, 1),
    num_heads=(2, 2),
)

# vit-pytorch

PICTURES = normal((2, 3, 16, 16))
PATCHES: dict[str, Any] = {"image_size": 16, "patch_size": 8, "num_classes": 3, "dim": 8}
PATCHES |= {"depth": 2, "heads": 2, "mlp_dim": 12}


def vision(library: str, module: str, inputs: Inputs = PICTURES, **settings: Any) -> None:
    """List one of vit-pytorch's models."""

    def make() -> nn.Module:
        return getattr(import_module(library), module)(**settings)

    VIT_PYTORCH.add(
        f"{library.removeprefix('vit_pytorch').strip('.')} {module}".strip(), make, inputs
    )


vision("vit_pytorch", "ViT", **PATCHES, dim_head=4)
vision("vit_pytorch", "SimpleViT", **PATCHES, dim_head=4)
vision("vit_pytorch.deepvit", "DeepViT", **PATCHES, dim_head=4)
vision("vit_pytorch.cait", "CaiT", **PATCHES, dim_head=4, cls_depth=1)
vision("vit_pytorch.parallel_vit", "ViT", **PATCHES, dim_head=4)
vision("vit_pytorch.vit_for_small_dataset", "ViT", **PATCHES, dim_head=4)
vision(
    "vit_pytorch.cct",
    "CCT",
    img_size=16,
    embedding_dim=8,
    n_conv_layers=1,
    num_layers=2,
    num_heads=2,
    mlp_ratio=2.0,
    num_classes=3,
    positional_embedding="learnable",
)
vision(
    "vit_pytorch.cross_vit",
    "CrossViT",
    image_size=16,
    num_classes=3,
    depth=1,
    sm_dim=8,
    sm_patch_size=4,
    sm_enc_depth=1,
    sm_enc_heads=2,
    sm_enc_mlp_dim=8,
    sm_enc_dim_head=4,
    lg_dim=8,
    lg_patch_size=8,
    lg_enc_depth=1,
    lg_enc_heads=2,
    lg_enc_mlp_dim=8,
    lg_enc_dim_head=4,
    cross_attn_depth=1,
    cross_attn_heads=2,
    cross_attn_dim_head=4,
)
vision("vit_pytorch.simple_vit_with_register_tokens", "SimpleViT", **PATCHES, dim_head=4)
vision(
    "vit_pytorch.vit_1d",
    "ViT",
    normal((2, 3, 16)),
    seq_len=16,
    patch_size=4,
    num_classes=3,
    dim=8,
    depth=2,
    heads=2,
    mlp_dim=12,
    dim_head=4,
)


# x-transformers


@X_TRANSFORMERS(tokens(20, 2, 6), name="decoder, rotary")
def x_decoder() -> nn.Module:
    x = import_module("x_transformers")
    layers = x.Decoder(dim=16, depth=2, heads=2, attn_dim_head=8, rotary_pos_emb=True, ff_glu=True)
    return x.TransformerWrapper(num_tokens=20, max_seq_len=8, attn_layers=layers)


@X_TRANSFORMERS(tokens(20, 2, 6), name="encoder, ALiBi, RMS norm")
def x_encoder() -> nn.Module:
    x = import_module("x_transformers")
    layers = x.Encoder(
        dim=16, depth=2, heads=2, attn_dim_head=8, alibi_pos_bias=True, use_rmsnorm=True
    )
    return x.TransformerWrapper(num_tokens=20, max_seq_len=8, attn_layers=layers)


@X_TRANSFORMERS(normal((2, 6, 5)), name="continuous")
def x_continuous() -> nn.Module:
    x = import_module("x_transformers")
    layers = x.Encoder(dim=16, depth=2, heads=2, attn_dim_head=8)
    return x.ContinuousTransformerWrapper(dim_in=5, dim_out=3, max_seq_len=8, attn_layers=layers)


@X_TRANSFORMERS(normal((2, 3, 16, 16)), name="vision")
def x_vision() -> nn.Module:
    x = import_module("x_transformers")
    return x.ViTransformerWrapper(
        image_size=16, patch_size=8, num_classes=3, attn_layers=x.Encoder(dim=16, depth=2, heads=2)
    )


@X_TRANSFORMERS(tokens(20, 2, 7), name="autoregressive wrapper, its loss")
def x_autoregressive() -> nn.Module:
    x = import_module("x_transformers")
    return x.AutoregressiveWrapper(x_decoder())


# snntorch, norse, ncps

SPIKES = normal((5, 3, 4))


@SPIKING(normal((3, 4)), name="snntorch.Leaky over time (float32)", needs="snntorch", **SINGLE)
class LeakySpikes(nn.Module):
    """State handed on by the caller."""

    def __init__(self) -> None:
        super().__init__()
        neurons = import_module("snntorch")
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.lif1 = neurons.Leaky(beta=0.9, threshold=0.3, learn_beta=True)
        self.lif2 = neurons.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, mems = [], []
        for _ in range(4):
            s, mem1 = self.lif1(self.a(x), mem1)
            s, mem2 = self.lif2(self.b(s), mem2)
            spikes.append(s)
            mems.append(mem2)
        return torch.stack(spikes), torch.stack(mems)


def _snntorch(neuron: str, *args: Any, **settings: Any) -> Callable[[], nn.Module]:
    """A network whose neurons keep their state themselves."""

    def make() -> nn.Module:
        library = import_module("snntorch")
        made = getattr(library, neuron)(*args, init_hidden=True, output=True, **settings)
        return nn.Sequential(nn.Linear(4, 5), made)

    return make


for _neuron, _args, _settings in (
    ("Leaky", (), {"beta": 0.9}),
    ("Synaptic", (), {"alpha": 0.9, "beta": 0.8}),
    ("Alpha", (), {"alpha": 0.9, "beta": 0.8}),
    ("Lapicque", (), {"beta": 0.9}),
    ("RLeaky", (), {"beta": 0.9, "linear_features": 5}),
):
    SPIKING.add(
        f"snntorch.{_neuron}, its state hidden",
        _snntorch(_neuron, *_args, threshold=0.3, **_settings),
        normal((3, 4)),
        needs="snntorch",
    )


@SPIKING(normal((3, 2, 8, 8)), name="snntorch.SLSTM", needs="snntorch")
class SpikingLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        neurons = import_module("snntorch")
        self.cell = neurons.SLSTM(16, 5, threshold=0.1)
        self.read = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        syn, mem = self.cell.reset_mem()
        for x_t in x.flatten(2).unflatten(-1, (4, 16)).mean(1).unbind(1):
            _, syn, mem = self.cell(x_t, syn, mem)
        return self.read(mem)


def _norse(name: str, *args: Any, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = import_module("norse.torch")
        return library.SequentialState(
            nn.Linear(4, 5), getattr(library, name)(*args, **settings), nn.Linear(5, 2)
        )

    return make


SPIKING.add("norse.LIF", _norse("LIF"), normal((5, 3, 4)), needs="norse")
SPIKING.add("norse.LIFRecurrent", _norse("LIFRecurrent", 5, 5), normal((5, 3, 4)), needs="norse")
SPIKING.add("norse.LIFCell", _norse("LIFCell"), normal((3, 4)), needs="norse")
SPIKING.add(
    "norse.LIFRecurrentCell", _norse("LIFRecurrentCell", 5, 5), normal((3, 4)), needs="norse"
)
SPIKING.add("norse.LICell", _norse("LICell"), normal((3, 4)), needs="norse")
SPIKING.add("norse.LIFAdExCell", _norse("LIFAdExCell"), normal((3, 4)), needs="norse")


def _liquid(kind: str, wired: bool) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = import_module("ncps.torch")
        units: Any = import_module("ncps.wirings").AutoNCP(9, 2) if wired else 6
        return getattr(library, kind)(4, units)

    return make


SPIKING.add("ncps.CfC", _liquid("CfC", False), normal((3, 5, 4)), needs="ncps")
SPIKING.add("ncps.CfC, wired", _liquid("CfC", True), normal((3, 5, 4)), needs="ncps")
SPIKING.add("ncps.LTC", _liquid("LTC", False), normal((3, 3, 4)), needs="ncps")
SPIKING.add("ncps.LTC, wired", _liquid("LTC", True), normal((3, 3, 4)), needs="ncps")

# monai


def medical(name: str, inputs: Inputs, train: bool = False, **settings: Any) -> None:
    """List one of monai's networks."""

    def make() -> nn.Module:
        return getattr(import_module("monai.networks.nets"), name)(**settings)

    MONAI.add(name + (", training" if train else ""), make, inputs, train=train)


FLAT, SOLID = normal((2, 1, 16, 16)), normal((1, 1, 16, 16, 16))
IN_OUT: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
medical("UNet", FLAT, **IN_OUT, channels=(4, 6, 8), strides=(2, 2), num_res_units=1)
medical("UNet", FLAT, train=True, **IN_OUT, channels=(4, 6, 8), strides=(2, 2), dropout=0.2)
medical("BasicUNet", normal((2, 1, 32, 32)), **IN_OUT, features=(4, 4, 4, 4, 4, 4))
medical("AttentionUnet", FLAT, **IN_OUT, channels=(4, 6, 8), strides=(2, 2))
medical("SegResNet", FLAT, **IN_OUT, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
medical(
    "DynUNet",
    FLAT,
    **IN_OUT,
    kernel_size=(3, 3, 3),
    strides=(1, 2, 2),
    upsample_kernel_size=(2, 2),
    filters=(4, 6, 8),
)
medical("VNet", SOLID, spatial_dims=3, in_channels=1, out_channels=2)
medical("DenseNet", FLAT, **IN_OUT, init_features=4, growth_rate=4, block_config=(1, 1))
medical(
    "ViT",
    FLAT,
    spatial_dims=2,
    in_channels=1,
    img_size=(16, 16),
    patch_size=(8, 8),
    hidden_size=16,
    mlp_dim=16,
    num_layers=2,
    num_heads=2,
)
medical(
    "UNETR",
    FLAT,
    **IN_OUT,
    img_size=(16, 16),
    feature_size=4,
    hidden_size=12,
    mlp_dim=12,
    num_heads=2,
)
medical("AutoEncoder", FLAT, **IN_OUT, channels=(4, 6), strides=(2, 2))
medical(
    "VarAutoEncoder",
    FLAT,
    train=True,
    spatial_dims=2,
    out_channels=1,
    in_shape=(1, 16, 16),
    latent_size=3,
    channels=(4, 6),
    strides=(2, 2),
)
medical("HighResNet", FLAT, **IN_OUT)

# torch_geometric

EDGES = torch.tensor([[0, 1, 2, 3, 3, 1, 4, 0], [1, 2, 0, 2, 1, 4, 0, 3]])


def graph() -> tuple[Tensor, Tensor]:
    """Five nodes, eight edges."""
    return torch.randn(5, 4), EDGES.clone()


class Convolved(nn.Module):
    """Two of a kind of graph convolution."""

    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = kind(4, 6, **settings), kind(6, 3, **settings)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edges).relu(), edges)


def graph_convolution(name: str, **settings: Any) -> None:
    """List two of one of torch_geometric's convolutions."""

    def make() -> nn.Module:
        return Convolved(getattr(import_module("torch_geometric.nn"), name), **settings)

    GEOMETRIC.add(name, make, graph)


for _name in [
    "GCNConv",
    "SAGEConv",
    "GATConv",
    "GATv2Conv",
    "GraphConv",
    "TAGConv",
    "TransformerConv",
    "LEConv",
]:
    graph_convolution(_name)
graph_convolution("ChebConv", K=2)
graph_convolution("ARMAConv", num_stacks=2)


@GEOMETRIC(graph, name="GIN")
def isomorphism_network() -> nn.Module:
    return import_module("torch_geometric.nn").GIN(4, 6, num_layers=2, out_channels=3)


@GEOMETRIC(graph, name="GCN, training", train=True)
def graph_network() -> nn.Module:
    library = import_module("torch_geometric.nn")
    return library.GCN(4, 6, num_layers=2, out_channels=3, dropout=0.3, norm="batch_norm")


@GEOMETRIC(lambda: (*graph(), torch.tensor([0, 0, 0, 1, 1])), name="GIN, pooled by graph")
class PooledGraphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        library = import_module("torch_geometric.nn")
        self.body, self.out = library.GIN(4, 6, num_layers=2), nn.Linear(12, 2)
        self.mean, self.largest = library.global_mean_pool, library.global_max_pool

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        h = self.body(x, edges)
        return self.out(torch.cat([self.mean(h, batch), self.largest(h, batch)], -1))


@GEOMETRIC(
    lambda: (torch.randn(5, 4), torch.randn(5, 3), torch.tensor([0, 0, 0, 1, 1])),
    name="PointNetConv",
)
class PointClouds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        library = import_module("torch_geometric.nn")
        local = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5))
        self.conv, self.out = library.PointNetConv(local), nn.Linear(5, 2)

    def forward(self, x: Tensor, pos: Tensor, batch: Tensor) -> Tensor:
        return self.out(self.conv(x, pos, EDGES).relu())


# Others


def of(package: str, name: str, inputs: Inputs, module: str = "", **settings: Any) -> None:
    """List a module of some other package."""

    def make() -> nn.Module:
        return getattr(import_module(module or package), name)(**settings)

    OTHERS.add(f"{package}.{name}", make, inputs, needs=package.replace("_", "-"))


def segmenting(name: str) -> None:
    """List one of segmentation_models_pytorch's networks."""
    of(
        "segmentation_models_pytorch",
        name,
        normal((2, 3, 32, 32)),
        encoder_name="resnet18",
        encoder_weights=None,
        classes=2,
    )


def torchvision(name: str, size: int, train: bool = False, **settings: Any) -> None:
    """List one of torchvision's models."""

    def make() -> nn.Module:
        return getattr(import_module("torchvision.models"), name)(**settings)

    called = f"torchvision.{name}" + (", training" if train else "")
    OTHERS.add(called, make, positive((2, 3, size, size)), train=train, needs="torchvision")


segmenting("Unet")
segmenting("FPN")
torchvision("resnet18", 32, num_classes=3, width_per_group=64)
torchvision("mobilenet_v2", 32, train=True, num_classes=3, width_mult=0.1)
torchvision("shufflenet_v2_x0_5", 32, num_classes=3)
torchvision("squeezenet1_1", 64, num_classes=3)
torchvision("googlenet", 32, train=True, num_classes=3, init_weights=False, aux_logits=False)
of(
    "performer_pytorch",
    "PerformerLM",
    tokens(20, 2, 8),
    num_tokens=20,
    max_seq_len=8,
    dim=8,
    depth=1,
    heads=2,
    dim_head=4,
)
of(
    "local_attention",
    "LocalTransformer",
    tokens(20, 2, 8),
    num_tokens=20,
    max_seq_len=8,
    dim=8,
    depth=1,
    dim_head=4,
    heads=2,
    local_attn_window_size=4,
)


@OTHERS(normal((3, 4)), name="einops, layers", needs="einops")
def by_einops() -> nn.Module:
    layers = import_module("einops.layers.torch")
    mixed = layers.EinMix("b (h c) -> b h d", weight_shape="h c d", bias_shape="h d", h=2, c=2, d=3)
    return nn.Sequential(
        nn.Linear(4, 4), mixed, nn.GELU(), layers.Reduce("b h d -> b d", "mean"), nn.Linear(3, 2)
    )


@OTHERS(normal((3, 4)), name="torchdiffeq, RK4", needs="torchdiffeq")
class Integrated(nn.Module):
    """A neural ODE by fixed steps of a library."""

    method = "rk4"
    adjoint = False

    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = (
            nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        library = import_module("torchdiffeq")
        t = torch.linspace(0, 1, 4, dtype=x.dtype)

        def rate(_: Tensor, y: Tensor) -> Any:
            return self.f(y)

        if self.adjoint:
            found = library.odeint_adjoint(
                rate, x, t, method=self.method, adjoint_params=tuple(self.f.parameters())
            )
        else:
            found = library.odeint(rate, x, t, method=self.method)
        return self.out(found[-1])


@OTHERS(normal((3, 4)), name="torchdiffeq, adaptive steps", needs="torchdiffeq")
class IntegratedAdaptively(Integrated):
    method = "dopri5"


@OTHERS(normal((3, 4)), name="torchdiffeq, adjoint", needs="torchdiffeq")
class IntegratedByAdjoint(Integrated):
    adjoint = True

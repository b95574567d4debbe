"""Trunks of detectors: from an image to feature maps of strides 8, 16 and 32.

Every backbone takes images with values in 0..1, normalises them itself, and gives a dict:

    backbone = small_trunk()
    maps = backbone(images)     # images [B, 3, H, W] -> {"c3": [B, C3, H/8, W/8], "c4": .../16, "c5": .../32}
    backbone.channels           # {"c3": C3, "c4": C4, "c5": C5}

Sizes that 32 does not divide are rounded up: a map of stride s has ⌈H/s⌉ rows.
"""

import os
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
DETECTION_LEVELS = ("c3", "c4", "c5")


class Backbone(nn.Module):
    """Stages in a row, of which some give their output.

    Args:
        stages (dict[str, Module]): "stem", "c2", "c3", "c4", "c5" in this order; c2 ends at stride 4, c5 at
            32.
        channels (dict[str, int]): how many each level gives.
        levels (tuple of str): which levels are wanted; later stages are left out.
        mean, std (float or 3 floats): an input channel becomes (x - mean) / std.
        train_from (str): the first stage that learns, "nothing" for none. Stages before it are frozen: their
            weights get no gradient and their batch norms stay as they are, also in training mode.
    """

    def __init__(self, stages, channels, levels=DETECTION_LEVELS, mean=0.5, std=0.25, train_from="stem"):
        super().__init__()
        unknown = [level for level in levels if level not in STRIDES]
        if unknown or not levels:
            raise ValueError(f"levels {tuple(levels)}, expected some of {tuple(STRIDES)}")
        names = list(stages)
        if train_from not in (*names, "nothing"):
            raise ValueError(f"train_from={train_from!r}, expected one of {', '.join(names)} or nothing")
        last = max(names.index(level) for level in levels)
        self.levels = tuple(levels)
        self.channels = {level: channels[level] for level in levels}
        self.strides = {level: STRIDES[level] for level in levels}
        self.stages = nn.ModuleDict({name: stages[name] for name in names[: last + 1]})
        self.frozen = names if train_from == "nothing" else names[: names.index(train_from)]
        # no part of the checkpoint: they belong to the weights' origin, not to what is learnt
        # One number stays one: channels last, three take a CPU twice as long (4.8 ms for [32, 3, 128, 128], not 2.3).
        for name, values in (("mean", torch.tensor(mean)), ("std", torch.tensor(std))):
            if values.numel() not in (1, 3):
                raise ValueError(f"{name} has {values.numel()} numbers, expected one, or three for red, green and blue")
            self.register_buffer(name, values.reshape(-1, 1, 1), persistent=False)
        for name in self.frozen:
            if name in self.stages:
                self.stages[name].requires_grad_(False)
        self.train()

    def forward(self, images):
        """Feature maps of images in 0..1: Tensor[B, 3, H, W] -> dict of Tensor[B, C, ⌈H/s⌉, ⌈W/s⌉]."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(
                f"images are {found}, expected floats in 0..1 of shape (batch, 3, height, width)"
            )
        maps, x = {}, (images - self.mean) / self.std
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.levels:
                maps[name] = x
        return maps

    def train(self, mode=True):
        """As for any module, but frozen stages stay in evaluation mode: their statistics do not move."""
        super().train(mode)
        for name in self.frozen:
            if name in self.stages:
                self.stages[name].eval()
        return self


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, at half the size. [B, b, H, W] -> [B, a, ⌈H/2⌉, ⌈W/2⌉].

    Source: He et al., CVPR 2016, figure 2 and option B (arXiv:1512.03385).
    """

    def __init__(self, before, after):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x):
        return torch.relu(self.convolutions(x) + self.shortcut(x))


def small_trunk(levels=DETECTION_LEVELS, *, mean=0.5, std=0.25):
    """A trunk of 0.6 million parameters that learns from nothing on two CPU cores in minutes.

    A stem and four residual blocks, each of which halves the size. 64, 128 and 128 channels at c3, c4 and c5.

    Args:
        levels (tuple of str): some of "c2", "c3", "c4", "c5".
        mean, std (float or 3 floats): the input is (x - mean) / std.

    Returns:
        Backbone: with fresh weights, by torch's generator.
    """
    # no narrower than 16: the weight gradient of a narrower 1x1 stride-2 channels-last convolution in float32
    # has corrupted the heap on CPU ("free(): invalid next size"), seen with 4, 8 and 12 channels in
    widths = {"stem": 16, "c2": 32, "c3": 64, "c4": 128, "c5": 128}
    stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    stages = {"stem": nn.Sequential(*stem)}
    for (_, before), (name, after) in zip(widths.items(), list(widths.items())[1:]):
        stages[name] = ResidualBlock(before, after)
    return Backbone(stages, widths, levels, mean, std)


def resnet18(weights=None, **options):
    """torchvision's ResNet-18: 128, 256, 512 channels; 11 M parameters. See `pretrained` for options."""
    return pretrained("resnet18", weights, **options)


def resnet34(weights=None, **options):
    """torchvision's ResNet-34: 128, 256, 512 channels; 21 M parameters. See `pretrained` for options."""
    return pretrained("resnet34", weights, **options)


def resnet50(weights=None, **options):
    """torchvision's ResNet-50: 512, 1024, 2048 channels; 24 M parameters. See `pretrained` for options."""
    return pretrained("resnet50", weights, **options)


def mobilenet_v2(weights=None, **options):
    """torchvision's MobileNetV2: 32, 96, 1280 channels; 2.2 M parameters. See `pretrained` for options."""
    return pretrained("mobilenet_v2", weights, **options)


def vgg16(weights=None, **options):
    """torchvision's VGG-16: conv4_3, conv5_3 and pool5 as c3, c4, c5, 512 channels each; 15 M parameters.

    Its pools round up, as in SSD's, so that odd sizes fit the other backbones' rule. It has no batch norm.
    See `pretrained` for options.
    """
    return pretrained("vgg16", weights, **options)


def pretrained(name, weights=None, *, levels=DETECTION_LEVELS, frozen_norm=False, train_from="stem",
               mean=IMAGENET_MEAN, std=IMAGENET_STD):  # fmt: skip
    """A classifier of torchvision without its classifying end, as a backbone.

    Args:
        name (str): "resnet18", "resnet34", "resnet50", "mobilenet_v2" or "vgg16".
        weights (None, "imagenet" or path): fresh ones, torchvision's `IMAGENET1K_V1` (downloaded once into
            torch's cache), or a state dict of the same torchvision model in a `.pth` or `.safetensors` file.
        levels (tuple of str): some of "c2", "c3", "c4", "c5".
        frozen_norm (bool): batch norms as torchvision's FrozenBatchNorm2d, whose statistics, scale and shift
            stay. For small batches.
        train_from (str): the first stage that learns: "stem", "c2", "c3", "c4", "c5", or "nothing".
        mean, std (float or 3 floats): what the weights were trained with; the default is torchvision's.

    Returns:
        Backbone

    Raises:
        FileNotFoundError, ValueError: if the file of weights is not there or does not fit; says what differs.
        ConnectionError: if torchvision's weights cannot be downloaded.
    """
    import torchvision

    norm = {"norm_layer": torchvision.ops.FrozenBatchNorm2d} if frozen_norm and name != "vgg16" else {}
    official = "IMAGENET1K_V1" if weights == "imagenet" else None
    try:
        model = torchvision.models.get_model(name, weights=official, **norm)
    except URLError as error:
        raise ConnectionError(
            f"torchvision's weights of {name} cannot be downloaded ({error.reason}): go online once, or "
            f"give the path of a state dict of torchvision's {name}; weights=None trains from nothing"
        ) from error
    if weights not in (None, "imagenet"):
        load_weights(model, weights)
    stages, channels = parts(name, model)
    return Backbone(stages, channels, levels, mean, std, train_from)


def parts(name, model):
    """The stages of a torchvision classifier, and the channels that each level has."""
    if name.startswith("resnet"):
        stages = {"stem": nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)}
        stages |= {"c2": model.layer1, "c3": model.layer2, "c4": model.layer3, "c5": model.layer4}
        width = 4 if name == "resnet50" else 1
        return stages, {"c2": 64 * width, "c3": 128 * width, "c4": 256 * width, "c5": 512 * width}
    if name == "mobilenet_v2":
        cuts = {"stem": (0, 2), "c2": (2, 4), "c3": (4, 7), "c4": (7, 14), "c5": (14, 19)}
        channels = {"c2": 24, "c3": 32, "c4": 96, "c5": 1280}
    elif name == "vgg16":
        for layer in model.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        cuts = {"stem": (0, 5), "c2": (5, 16), "c3": (16, 23), "c4": (23, 30), "c5": (30, 31)}
        channels = {"c2": 256, "c3": 512, "c4": 512, "c5": 512}
    else:
        raise ValueError(
            f"no backbone {name!r}, expected resnet18, resnet34, resnet50, mobilenet_v2 or vgg16"
        )
    return {stage: model.features[first:end] for stage, (first, end) in cuts.items()}, channels


def load_weights(model, path):
    """Puts a file's weights into a torchvision classifier; its classifying end may be missing or another.

    Args:
        model (Module): changed in place; 16-bit weights become float32.
        path (str or Path): `.safetensors`, or anything else that `torch.load(weights_only=True)` reads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if names or shapes differ; lists them.
    """
    state = read_state(path)
    end = ("fc.", "classifier.")
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith(end)}
    found = {key: value for key, value in state.items() if not key.startswith(end)}
    counters = "num_batches_tracked"  # older files and frozen norms have none
    missing = [key for key in expected if key not in found and not key.endswith(counters)]
    unexpected = [key for key in found if key not in expected and not key.endswith(counters)]
    shapes = [
        f"{key} is {tuple(found[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    problems = [(missing, "missing"), (unexpected, "not expected"), (shapes, "of another shape")]
    told = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' * (len(keys) > 3)}"
        for keys, what in problems
        if keys
    ]
    if told:
        kind = type(model).__name__
        raise ValueError(f"{path} does not hold the weights of this {kind}. {'; '.join(told)}")
    model.load_state_dict(found, strict=False)  # copies into the model's own tensors, so 16 bits become 32


def read_state(path):
    """The tensors of a file of weights by name. Runs no code from the file."""
    path = Path(os.fspath(path)).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a state dict, or weights='imagenet'")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        inside = (
            f"a dict of {', '.join(map(str, list(state)[:4]))}"
            if isinstance(state, dict)
            else type(state).__name__
        )
        raise ValueError(f"{path} holds {inside}, expected a state dict: names and tensors")
    return state

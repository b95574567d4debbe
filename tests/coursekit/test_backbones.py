"""coursekit.backbones: the right maps, torchvision's own features, weights that fit or say why not."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from coursekit import backbones

WEIGHTS = Path(os.environ.get("COURSEKIT_DATA", "nowhere")) / "weights" / "mobilenet_v2_imagenet_fp16.pth"
NAMES = ["small_trunk", "resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg16"]
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def make(name, **options):
    torch.manual_seed(0)
    return getattr(backbones, name)(**options)


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_promised_channels_and_rounded_up_sizes(name):
    backbone = make(name, levels=("c2", "c3", "c4", "c5")).eval()
    for height, width in [(64, 96), (75, 101)]:
        with torch.no_grad():
            maps = backbone(torch.rand(1, 3, height, width))
        assert list(maps) == ["c2", "c3", "c4", "c5"]
        for level, stride in {"c2": 4, "c3": 8, "c4": 16, "c5": 32}.items():
            assert maps[level].shape == (
                1,
                backbone.channels[level],
                -(-height // stride),
                -(-width // stride),
            ), level


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_gives_torchvisions_own_features(name):
    from torchvision.models._utils import IntermediateLayerGetter

    ours = make(name).eval()
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    theirs = IntermediateLayerGetter(model, {"layer2": "c3", "layer3": "c4", "layer4": "c5"})
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD))
    with torch.no_grad():
        for level, expected in theirs((IMAGES - mean) / std).items():
            assert torch.equal(ours(IMAGES)[level], expected)


@pytest.mark.parametrize(
    "name, level, layers", [("mobilenet_v2", "c3", 7), ("mobilenet_v2", "c4", 14), ("mobilenet_v2", "c5", 19)]
)
def test_mobilenets_maps_are_those_before_the_size_halves(name, level, layers):
    ours = make(name).eval()
    torch.manual_seed(0)
    features = torchvision.models.get_model(name, weights=None).eval().features
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD))
    with torch.no_grad():
        expected = features[:layers]((IMAGES - mean) / std)
        assert torch.equal(ours(IMAGES)[level], expected)
        if layers < len(features):
            assert features[layers](expected).shape[-1] == expected.shape[-1] / 2


@pytest.mark.parametrize("name, level", [("vgg16", "c5")])
def test_the_last_map_is_the_input_of_torchvisions_classifier(name, level):
    ours = make(name).eval()
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD))
    with torch.no_grad():
        assert torch.equal(ours(IMAGES)[level], model.features((IMAGES - mean) / std))


def test_vgg_levels_end_in_the_rectified_conv4_3_and_conv5_3():
    ours = make(
        "vgg16"
    )  # Simonyan and Zisserman's configuration D: 2, 2, 3, 3 and 3 convolutions between pools
    convolutions = [
        m for stage in ("stem", "c2", "c3") for m in ours.stages[stage] if isinstance(m, nn.Conv2d)
    ]
    assert len(convolutions) == 2 + 2 + 3 + 3 and isinstance(ours.stages["c3"][-1], nn.ReLU)
    assert len([m for m in ours.stages["c4"] if isinstance(m, nn.Conv2d)]) == 3
    assert isinstance(ours.stages["c4"][-1], nn.ReLU)


def test_the_small_trunk_is_small_and_has_no_narrow_shortcut():
    trunk = make("small_trunk")
    assert 0.3e6 < sum(p.numel() for p in trunk.parameters()) < 0.7e6
    shortcuts = [m for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert shortcuts and all(m.in_channels >= 16 for m in shortcuts)


def test_the_small_trunk_trains_in_channels_last():
    trunk = make("small_trunk").to(memory_format=torch.channels_last)
    maps = trunk(IMAGES.to(memory_format=torch.channels_last))
    sum(value.square().mean() for value in maps.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trunk.parameters())


def test_levels_that_are_not_wanted_cost_no_weights():
    assert list(make("resnet18", levels=("c3",)).stages) == ["stem", "c2", "c3"]
    assert make("resnet18", levels=("c3",)).channels == {"c3": 128}


def test_the_input_is_normalised_by_the_given_mean_and_std():
    plain, shifted = (
        make("resnet18", mean=0.0, std=1.0).eval(),
        make("resnet18", mean=0.5, std=(0.5, 0.25, 1.0)).eval(),
    )
    changed = (IMAGES - 0.5) / torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(shifted(IMAGES)["c3"], plain(changed)["c3"])


def test_frozen_norms_are_torchvisions_and_hold_nothing_to_learn():
    backbone = make("resnet18", frozen_norm=True)
    kinds = {type(m) for m in backbone.modules() if "Norm" in type(m).__name__}
    assert kinds == {torchvision.ops.FrozenBatchNorm2d}
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()(IMAGES)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_frozen_stages_get_no_gradient_and_keep_their_statistics_in_training_mode():
    backbone = make("resnet18", train_from="c3").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(value.mean() for value in backbone(IMAGES).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(("stages.stem", "stages.c2")), name
    moved = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and not any(key.startswith(("stages.stem", "stages.c2")) for key in moved)


def test_a_backbone_that_trains_nothing_has_no_gradient_at_all():
    assert not any(p.requires_grad for p in make("resnet18", train_from="nothing").parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("frozen", [False, True], ids=["batch norm", "frozen norm"])
def test_weights_come_back_from_a_file_in_float32(tmp_path, suffix, frozen):
    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None).half().state_dict()
    path = tmp_path / f"r18{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = make("resnet18", weights=path, frozen_norm=frozen)
    ours = [value for key, value in loaded.state_dict().items() if "num_batches" not in key]
    theirs = [v.float() for k, v in state.items() if "num_batches" not in k and not k.startswith("fc.")]
    assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_a_file_of_another_model_says_what_is_missing_and_what_is_too_much(tmp_path):
    path = tmp_path / "other.pth"
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["layer9.weight"] = state.pop("conv1.weight")
    state["bn1.bias"] = torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        make("resnet18", weights=path)
    told = str(error.value)
    assert str(path) in told and "1 missing: conv1.weight" in told and "1 not expected: layer9.weight" in told
    assert "bn1.bias is (3,), expected (64,)" in told


def test_a_file_that_is_a_whole_checkpoint_says_what_it_holds(tmp_path):
    torch.save({"model": {}, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="a dict of model, epoch, expected a state dict"):
        make("resnet18", weights=tmp_path / "run.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        make("resnet18", weights=tmp_path / "nothing.pth")


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(Exception):
        make("resnet18", weights=tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_offline_weights_say_what_to_do(monkeypatch):
    from urllib.error import URLError

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(ConnectionError, match="no route to host.*give the path"):
        make("resnet18", weights="imagenet")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": ("c3", "c7")}, r"'c7'\), expected some of"),
        ({"train_from": "layer3"}, "expected one of stem, c2"),
    ],
)
def test_a_wrong_option_lists_the_right_ones(options, message):
    with pytest.raises(ValueError, match=message):
        make("resnet18", **options)


def test_images_in_bytes_are_refused():
    with pytest.raises(ValueError, match=r"torch.uint8 \(1, 3, 32, 32\), expected floats in 0..1"):
        make("small_trunk")(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="no weights/ in COURSEKIT_DATA")
def test_the_real_mobilenet_weights_load_whole_and_tell_classes_apart():
    """With the file's own classifier on top, torchvision's model and our trunk give the same answer."""
    backbone = make("mobilenet_v2", weights=WEIGHTS, mean=0.5, std=0.5).eval()
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    state = torch.load(WEIGHTS, weights_only=True)
    assert (
        model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        ).missing_keys
        == []
    )
    with torch.no_grad():
        pooled = backbone(IMAGES)["c5"].mean((2, 3))
        torch.testing.assert_close(model.classifier(pooled), model((IMAGES - 0.5) / 0.5))


def test_a_mean_of_two_numbers_is_refused_and_one_number_does_what_three_equal_ones_do():
    with pytest.raises(ValueError, match="mean has 2 numbers, expected one, or three"):
        backbones.small_trunk(mean=(0.5, 0.4))
    torch.manual_seed(0)
    one = backbones.small_trunk(mean=0.4, std=0.3).eval()
    torch.manual_seed(0)
    three = backbones.small_trunk(mean=(0.4,) * 3, std=(0.3,) * 3).eval()
    assert all(torch.equal(a, b) for a, b in zip(one(IMAGES).values(), three(IMAGES).values()))

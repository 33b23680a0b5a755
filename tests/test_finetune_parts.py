"""The parts of a fine-tune against scikit-learn, statsmodels, mpmath, timm, open_clip and torch."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import mpmath
import numpy as np
import pytest
import timm
import torch
from open_clip.loss import ClipLoss
from open_clip.transformer import VisionTransformer
from scipy import stats
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from statsmodels.miscmodels.ordinal_model import OrderedModel
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

from embedstore.backbones import load_backbone
from embedstore.errors import DataError, EmbedstoreError, UsageError
from embedstore.finetune import augment
from embedstore.finetune.batches import Order
from embedstore.finetune.fit import BEST, LAST, Hardware, fit
from embedstore.finetune.network import Classifier, image_side
from embedstore.finetune.objectives import Contrastive, CrossEntropy, Ordinal, contrastive_loss
from embedstore.finetune.run import guesses
from embedstore.finetune.settings import RECIPES, Settings, settings_of
from embedstore.finetune.tuner import factor
from embedstore.heads import load_heads
from embedstore.types import Recipe

RECIPE = Recipe(size=(32, 32), mean=(0.4, 0.3, 0.2), std=(0.2, 0.3, 0.4))
CPU = Hardware(accelerator="cpu", precision="float32", logger="none")
PLAIN = {"augment": "none", "validation": 0.0}
SMALL = Settings(epochs=2, batch=16, rate=2e-3, clip=0.2, **PLAIN)


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower with several, which wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Pictures:
    """Pictures in memory, to be learnt from."""

    def __init__(self, pictures, truth):
        self.pictures, self.truth = pictures, torch.as_tensor(truth)

    def __len__(self):
        return len(self.truth)

    def __getitem__(self, items):
        at = torch.as_tensor(items)
        return {"pictures": self.pictures[at], "truth": self.truth[at], "item": at}

    def name(self, item):
        return f"film-{item}"


def pictures(n=33, classes=4, size=32, seed=0):
    """Make noise whose brightness goes with the class."""
    rng = torch.Generator().manual_seed(seed)
    truth = torch.arange(n) % classes
    noise = torch.rand(n, 1, size, size, generator=rng)
    return Pictures(noise * (0.4 + 0.6 * truth[:, None, None, None] / classes), truth)


def classifier(side, settings, objective=None, classes=4, weights=None, make=Classifier):
    if objective is None:
        objective = CrossEntropy(side.num_features, classes)
    counts = np.ones(classes) if weights is None else np.asarray(weights)
    return make(side, objective, RECIPE, settings, counts)


def pixels(settings, classes=4, weights=None, d=16):
    """Make a classifier of the pixels themselves: a picture is its vector."""
    objective = CrossEntropy(d, classes)
    nn.init.normal_(objective.linear.weight)
    grey = Recipe(mean=(0.0,), std=(1.0,))
    return Classifier(nn.Flatten(), objective, grey, settings, weights or np.ones(classes))


def vectors(n, d, classes, seed=0):
    """Make vectors far from zero and of unequal scales, and class numbers that go with them."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    x = rng.standard_normal((n, d))
    x[:, 0] += 0.8 * truth
    return (x * rng.uniform(0.05, 5, d) + rng.normal(0, 8, d)).astype(np.float32), truth


# --- last layers


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_layer_starts_with_the_answers_of_the_probe(classes):
    x, y = vectors(120, 6, classes)
    scaler = StandardScaler().fit(x)
    probe = LogisticRegression(C=1.0).fit(scaler.transform(x), y)
    layer = CrossEntropy(6, classes)
    layer.start_from(probe, scaler.mean_, scaler.scale_)
    found = layer.log_probabilities(torch.from_numpy(x)).exp().detach().numpy()
    np.testing.assert_allclose(found, probe.predict_proba(scaler.transform(x)), atol=2e-4)


@pytest.mark.parametrize("known", [[0, 2], [0, 2, 3]])
def test_class_the_probe_has_not_seen_gets_nothing(known):
    x, y = vectors(120, 6, len(known))
    scaler = StandardScaler().fit(x)
    probe = LogisticRegression(C=1.0).fit(scaler.transform(x), np.array(known)[y])
    layer = CrossEntropy(6, 4)
    layer.start_from(probe, scaler.mean_, scaler.scale_)
    found = layer.log_probabilities(torch.from_numpy(x)).exp().detach().numpy()
    unseen = [c for c in range(4) if c not in known]
    assert found[:, unseen].max() < 1e-6
    expected = probe.predict_proba(scaler.transform(x))
    np.testing.assert_allclose(found[:, known], expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_layer_as_head_is_softmax_of_its_logits(classes):
    torch.manual_seed(1)
    layer = CrossEntropy(5, classes)
    nn.init.normal_(layer.linear.weight)
    nn.init.normal_(layer.linear.bias)
    x = torch.randn(40, 5)
    weight, bias = (p.detach().double() for p in layer.linear.parameters())
    expected = (x.double() @ weight.T + bias).softmax(dim=1).numpy()
    head = layer.as_head()
    np.testing.assert_allclose(head.predict_proba(x.numpy()), expected, atol=1e-12)
    np.testing.assert_array_equal(head.predict(x.numpy()), expected.argmax(axis=1))


def odds(z, theta):
    """(n,) scores and (k - 1,) thresholds to (n, k), as McCullagh has them."""
    rising = expit(np.asarray(theta)[None] - np.asarray(z)[:, None])
    n = len(rising)
    return np.diff(np.hstack([np.zeros((n, 1)), rising, np.ones((n, 1))]), axis=1)


def ordinal(d, classes, seed=0):
    torch.manual_seed(seed)
    layer = Ordinal(d, classes)
    with torch.no_grad():
        layer.weight.normal_()
        layer.gaps.uniform_(-2, 1)
    theta = np.exp(layer.gaps.detach().double().numpy()).cumsum()
    first = float(layer.first.detach())
    return layer, np.concatenate([[first], first + theta])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_ordinal_layer_is_differences_of_sigmoids(classes):
    layer, theta = ordinal(4, classes)
    x = torch.randn(50, 4)
    expected = odds(x.double().numpy() @ layer.weight[0].detach().double().numpy(), theta)
    np.testing.assert_allclose(layer.log_probabilities(x).detach(), np.log(expected), atol=1e-4)
    np.testing.assert_allclose(layer.as_head().predict_proba(x.numpy()), expected, atol=1e-7)


def test_ordinal_layer_keeps_its_digits_far_out():
    layer, theta = ordinal(1, 4)
    z = [-300.0, -60.0, 0.0, 60.0, 300.0]
    with torch.no_grad():
        layer.weight.fill_(1.0)
    found = layer.log_probabilities(torch.tensor(z)[:, None])
    mpmath.mp.dps = 400
    edges = [-mpmath.inf, *map(mpmath.mpf, theta.tolist()), mpmath.inf]

    def sigmoid(value):
        return 1 / (1 + mpmath.exp(-value))

    expected = [
        [float(mpmath.log(sigmoid(b - at) - sigmoid(a - at))) for a, b in pairwise(edges)]
        for at in z
    ]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_ordinal_layer_starts_with_the_answers_of_the_probe_and_of_statsmodels():
    x, y = vectors(300, 3, 4)
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    (make,) = load_heads(["ordinal"])
    probe = make(C=1e6, tol=1e-12).fit(z, y)
    layer = Ordinal(3, 4)
    layer.start_from(probe, scaler.mean_, scaler.scale_)
    found = layer.log_probabilities(torch.from_numpy(x)).exp().detach().numpy()
    np.testing.assert_allclose(found, probe.predict_proba(z), atol=2e-4)
    np.testing.assert_allclose(layer.as_head().predict_proba(x), found, atol=2e-4)
    model = OrderedModel(y, z, distr="logit")
    other = model.fit(method="bfgs", disp=False, gtol=1e-7)
    np.testing.assert_allclose(found, other.predict(z), atol=1e-3)


@pytest.mark.parametrize("known", [[0, 1, 3], [0, 1, 2], [1, 2, 3], [0, 3]])
def test_grade_the_probe_has_not_seen_gets_nothing(known):
    x, y = vectors(150, 3, len(known))
    scaler = StandardScaler().fit(x)
    (make,) = load_heads(["ordinal"])
    probe = make(C=1.0).fit(scaler.transform(x), np.array(known)[y])
    layer = Ordinal(3, 4)
    layer.start_from(probe, scaler.mean_, scaler.scale_)
    found = layer.log_probabilities(torch.from_numpy(x)).exp().detach().numpy()
    scores = scaler.transform(x) @ probe.coef_
    np.testing.assert_allclose(found[:, known], odds(scores, probe.thresholds_), atol=2e-4)
    assert found[:, [c for c in range(4) if c not in known]].max() < 1e-5


# --- images against sentences


def units(n, d, seed):
    return functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def test_contrastive_loss_of_pairs_is_clips():
    images, texts = units(7, 5, 0), units(7, 5, 1)
    found = contrastive_loss(8.0 * images @ texts.T, torch.eye(7))
    torch.testing.assert_close(found, ClipLoss()(images, texts, torch.tensor(8.0)))


def one_side(scores, weights, known):
    """Mean cross-entropy of the rows that have a positive, among what is known, by loops."""
    losses = []
    for row, weight, seen in zip(scores, weights, known, strict=True):
        if weight.sum() > 0:
            log_share = row - np.log(np.exp(row[seen]).sum())
            losses.append(-(weight * log_share)[seen].sum() / weight.sum())
    return np.mean(losses)


@pytest.mark.parametrize("partly", [False, True])
def test_contrastive_loss_of_several_positives_by_hand(partly):
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (6, 9))
    weights = rng.uniform(0.5, 2, (6, 9)) * (rng.random((6, 9)) < 0.4)
    weights[2], weights[:, 4] = 0, 0
    known = rng.random((6, 9)) < 0.7 if partly else np.ones((6, 9), dtype=bool)
    known |= weights > 0
    expected = one_side(scores, weights, known) + one_side(scores.T, weights.T, known.T)
    found = contrastive_loss(
        torch.from_numpy(scores),
        torch.from_numpy(weights),
        torch.from_numpy(known) if partly else None,
    )
    assert float(found) == pytest.approx(expected / 2, rel=1e-6)


def test_contrastive_loss_without_a_positive_moves_nothing():
    scores = torch.randn(3, 2, requires_grad=True)
    contrastive_loss(scores, torch.zeros(3, 2)).backward()
    assert torch.equal(scores.grad, torch.zeros(3, 2))


def test_contrastive_head_is_softmax_of_cosines():
    rng = np.random.default_rng(3)
    said, seen = rng.normal(0, 3, (5, 6)), rng.normal(0, 2, (20, 6)).astype(np.float32)
    of, scale = [0, 0, 1, 2, 2], 12.0
    layer = Contrastive(torch.from_numpy(said), of, scale)
    said = said / np.linalg.norm(said, axis=1, keepdims=True)
    classes = np.stack([said[np.array(of) == c].mean(axis=0) for c in range(3)])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    cosines = seen / np.linalg.norm(seen, axis=1, keepdims=True) @ classes.T
    expected = softmax(scale * cosines, axis=1)
    found = layer.log_probabilities(torch.from_numpy(seen)).exp().detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(layer.as_head().predict_proba(seen), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [7.0, 100.0])
def test_temperature_learns_as_clips_does(scale):
    images, texts = units(6, 4, 4), units(6, 4, 5)
    layer = Contrastive(texts, range(6), scale)
    layer.loss(3 * images, torch.eye(6)).backward()
    log_scale = torch.tensor(math.log(scale), requires_grad=True)
    ClipLoss()(images, texts, log_scale.exp()).backward()
    torch.testing.assert_close(layer.log_scale.grad, log_scale.grad, rtol=1e-4, atol=1e-5)


def test_settled_text_side_answers_as_before():
    backbone = load_backbone("phantom-clip")
    texts = ["fatty tissue", "a dense breast", "very dense tissue"]
    text = backbone.model.text.requires_grad_(True)
    with torch.no_grad():
        text.proj[0].weight.mul_(1.5)  # so that the vectors given to begin with are not these
    said = units(3, backbone.spec.dim, 0)
    layer = Contrastive(said, [0, 1, 1], 20.0, text, backbone.tokenizer(texts)).eval()
    seen = units(10, backbone.spec.dim, 1)
    with torch.no_grad():
        vectors = functional.normalize(backbone.model.encode_text(backbone.tokenizer(texts)))
    classes = torch.stack([vectors[0], functional.normalize(vectors[1:].mean(dim=0), dim=0)])
    expected = (20 * seen @ classes.T).softmax(dim=1)
    for settled in (False, True):
        if settled:
            layer.settle()
            assert not [n for n in layer.state_dict() if n.startswith("text.")]
        found = layer.log_probabilities(seen).exp().detach()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- what learns, and how fast


def rates(learner):
    """(lr, weight decay) by parameter; that there is no parameter twice is asserted."""
    names = {id(p): n for n, p in learner.named_parameters()}
    found = [
        (names[id(p)], (g["lr"], g["weight_decay"])) for g in learner.groups() for p in g["params"]
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def timms_rates(whole, settings):
    spared = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        whole, settings.decay, spared, layer_decay=settings.layer_decay
    )
    names = {id(p): n for n, p in whole.named_parameters()}
    return {
        names[id(p)]: (settings.rate * g["lr_scale"], g["weight_decay"])
        for g in groups
        for p in g["params"]
    }


def test_open_clips_own_transformer_learns_layer_by_layer_and_freezes_from_the_stem():
    tower = VisionTransformer(32, 16, 64, 3, 2, 2.0, output_dim=16)
    objective = CrossEntropy(16, 4)
    settings = Settings(rate=1.0, layer_decay=0.5)
    found = rates(Classifier(tower, objective, RECIPE, settings, np.ones(4)))
    depth = {"conv1": 4, "class_embedding": 4, "positional_embedding": 4, "ln_pre": 4}
    depth |= {f"transformer.resblocks.{i}": 3 - i for i in range(3)}
    depth |= {"ln_post": 1, "proj": 0}  # the last norm is the last block's, as in timm
    seen = set()
    for name, (rate, _) in found.items():
        part = next((p for p in depth if name.startswith(f"side.{p}")), "")
        seen.add(part)
        assert rate == 0.5 ** depth.get(part, 0), name
    assert seen == {*depth, ""}
    frozen = Classifier(tower, objective, RECIPE, Settings(freeze=2), np.ones(4))
    still = {n for n, p in frozen.side.named_parameters() if not p.requires_grad}
    stem = ("conv1", "class_emb", "positional_emb", "ln_pre", "transformer.resblocks.0.")
    assert still == {n for n, _ in tower.named_parameters() if n.startswith(stem)}


@pytest.mark.parametrize(
    ("name", "last"), [("test_convnext", "head.fc"), ("test_vit", "head"), ("test_resnet", "fc")]
)
def test_rates_are_timms_for_the_model_with_its_classifier(name, last):
    settings = Settings(rate=1e-3, decay=0.05, layer_decay=0.7)
    expected = timms_rates(timm.create_model(name, num_classes=4), settings)
    found = rates(classifier(timm.create_model(name, num_classes=0), settings))
    found = {
        n.replace("objective.linear", last).removeprefix("side."): values
        for n, values in found.items()
    }
    assert found.keys() == expected.keys()
    for n, values in expected.items():
        assert found[n] == pytest.approx(values), n


@pytest.mark.parametrize("tune_text", [False, True])
def test_every_parameter_of_two_towers_learns_once(tune_text):
    settings = Settings("contrastive", tune_text=tune_text, layer_decay=0.7, rate=1e-3)
    backbone = load_backbone("phantom-clip")
    tokens = backbone.tokenizer(["fatty", "dense"])
    text = backbone.model.text.requires_grad_(True) if tune_text else None
    layer = Contrastive(units(2, backbone.spec.dim, 0), [0, 1], 10.0, text, tokens)
    learner = classifier(image_side(backbone), settings, layer, classes=2)
    found = rates(learner)
    assert found.keys() == {n for n, p in learner.named_parameters() if p.requires_grad}
    images = {n for n, _ in backbone.model.visual.named_parameters()}
    texts = {n for n, _ in backbone.model.text.named_parameters()} if tune_text else set()
    assert found.keys() == {
        "objective.log_scale",
        *(f"side.{n}" for n in images),
        *(f"objective.text.{n}" for n in texts),
    }
    trunk = timms_rates(timm.create_model("test_resnet", num_classes=4), settings)
    for name, values in trunk.items():
        if not name.startswith("fc."):
            assert found[f"side.trunk.{name}"] == pytest.approx(values), name
    assert found["side.head.proj.weight"] == pytest.approx((1e-3, 0.05))


@pytest.mark.parametrize(
    ("name", "stages"), [("test_resnet", 1), ("test_resnet", 3), ("test_vit", 2)]
)
def test_frozen_stages_stay_and_the_others_learn(tmp_path, name, stages):
    backbone = load_backbone(f"timm:{name}@random", RECIPE)
    side = image_side(backbone)
    layers = group_parameters(side, side.group_matcher(coarse=True), reverse=True)
    settings = Settings(epochs=2, batch=8, rate=1e-2, freeze=stages, decay=0.1, **PLAIN)
    learner = classifier(side, settings)
    before = copy.deepcopy(side.state_dict())
    fit(learner, pictures(16), None, settings, CPU, tmp_path)
    learning = rates(learner)
    statistics = 0
    for key, value in side.state_dict().items():
        module, _, leaf = key.rpartition(".")
        statistic = leaf.startswith("running_")
        statistics += statistic
        if leaf == "num_batches_tracked":
            continue
        still = layers[f"{module}.weight" if statistic else key] < stages
        assert torch.equal(value, before[key]) == still, key
        assert (f"side.{key}" in learning) == (not still and not statistic), key
    assert statistics or name == "test_vit"


def test_dropout_is_on_where_it_learns_and_off_where_it_is_checked(tmp_path):
    backbone = load_backbone("timm:test_convnext@random", RECIPE)
    side, modes = image_side(backbone), []
    side.head.drop.register_forward_hook(lambda module, *_: modes.append(module.training))
    settings = Settings(epochs=2, batch=16, augment="none")
    fit(classifier(side, settings), pictures(16), pictures(16, seed=1), settings, CPU, tmp_path)
    assert modes == [True, False, True, False]


@pytest.mark.parametrize(("name", "most"), [("test_convnext", 5), ("test_vit", 6)])
def test_freezing_everything_is_refused(name, most):
    side = timm.create_model(name, num_classes=0)
    assert any(n.startswith("side.") for n in rates(classifier(side, Settings(freeze=most))))
    with pytest.raises(UsageError, match=f"freeze is {most + 1}"):
        classifier(side, Settings(freeze=most + 1))


def test_freeze_of_a_model_without_stages_is_refused():
    with pytest.raises(UsageError, match="Linear does not say what its stages are"):
        Classifier(nn.Linear(2, 2), CrossEntropy(2, 2), RECIPE, Settings(freeze=1), np.ones(2))


def test_adapters_alone_learn_and_end_in_the_weights(tmp_path):
    pytest.importorskip("peft")
    backbone = load_backbone("timm:test_vit@random", RECIPE)
    plain, seen = copy.deepcopy(backbone.model), torch.rand(3, 3, 32, 32)
    settings = Settings(epochs=2, batch=8, rate=1e-2, lora=4, **PLAIN)
    learner = classifier(image_side(backbone), settings, CrossEntropy(backbone.spec.dim, 4))
    learning = {n for n, p in learner.named_parameters() if p.requires_grad}
    assert learning == rates(learner).keys()
    linear = [n for n, m in plain.named_modules() if isinstance(m, nn.Linear)]
    adapters = {n for n in learning if not n.startswith("objective.")}
    assert len(adapters) == 2 * len(linear)
    assert all("lora_" in n for n in adapters)

    fit(learner, pictures(16), None, settings, CPU, tmp_path)
    before = {n.replace(".base_layer", ""): p for n, p in learner.side.named_parameters()}
    for name, parameter in plain.named_parameters():
        kept = next(p for n, p in before.items() if n.endswith(f"model.{name}"))
        assert torch.equal(kept, parameter), name
    with torch.no_grad():
        adapted = learner.side(seen)
        assert (adapted - plain(seen)).abs().max() > 1e-2
        learner.settle()
        assert backbone.model.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(backbone.encode_image(seen), adapted, atol=1e-4, rtol=1e-4)
        (tmp_path / "model").mkdir()
        backbone.export(tmp_path / "model")
        model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=0)
        torch.testing.assert_close(model.eval()(seen), adapted, atol=1e-4, rtol=1e-4)


# --- what a step learns from


@pytest.mark.parametrize(("items", "batch"), [(33, 16), (32, 16), (5, 8), (17, 4), (1, 3)])
def test_every_epoch_takes_every_item_once_in_even_batches(items, batch):
    steps = math.ceil(items / batch)
    orders = []
    for epoch in range(3):
        order = Order(items, batch, seed=2, step=lambda epoch=epoch: epoch * steps)
        batches = list(order)
        assert len(batches) == len(order) == steps
        sizes = [len(b) for b in batches]
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1
        assert sorted(sum(batches, [])) == list(range(items))
        assert batches == list(order)
        orders.append(batches)
    if items > 8:
        assert orders[0] != orders[1] != orders[2] != orders[0]
        assert orders[0] != list(Order(items, batch, seed=3, step=lambda: 0))


def test_an_order_goes_on_where_it_was():
    whole = [b for e in range(3) for b in Order(33, 8, seed=1, step=lambda e=e: e * 5)]
    for step in range(15):
        rest = list(Order(33, 8, seed=1, step=lambda step=step: step))
        assert rest == whole[step : 5 * (step // 5 + 1)]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_part_every_batch(processes):
    whole = list(Order(33, 8, seed=1, step=lambda: 0))
    parts = [list(Order(33, 8, 1, lambda: 0, rank, processes)) for rank in range(processes)]
    for number, batch in enumerate(whole):
        of_ranks = [part[number] for part in parts]
        assert sorted(sum(of_ranks, [])) == sorted(batch)
        assert max(map(len, of_ranks)) - min(map(len, of_ranks)) <= 1


def left_breasts(n, size=48):
    """Make pictures with a half ellipse of grey at the left, on black."""
    y, x = np.mgrid[:size, :size]
    inside = (x / (0.5 * size)) ** 2 + ((y - size / 2) / (0.4 * size)) ** 2 < 1
    grey = np.random.default_rng(0).uniform(0.3, 0.9, (size, size)) * inside
    return torch.from_numpy(grey).float().expand(n, 1, size, size).clone()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_film_keeps_black_and_the_range():
    black = augment.film(torch.zeros(20, 1, 32, 32), generator(0))
    assert torch.equal(black, torch.zeros_like(black))
    checks = (torch.rand(50, 3, 32, 32, generator=generator(1)) > 0.5).float()
    changed = augment.film(checks, generator(2))
    assert changed.shape == checks.shape
    assert float(changed.min()) == 0
    assert 0.9 < float(changed.max()) <= 1


def test_film_never_mirrors():
    before = left_breasts(300)
    after = augment.film(before, generator(0))[:, 0].numpy()
    original = before[0, 0].numpy().ravel()
    mirrored = before[0, 0].numpy()[:, ::-1].ravel()
    for picture in after:
        as_it_was = np.corrcoef(picture.ravel(), original)[0, 1]
        assert as_it_was > np.corrcoef(picture.ravel(), mirrored)[0, 1] + 0.3
        assert (picture.sum(axis=0) * np.arange(48)).sum() / picture.sum() < 20


@pytest.mark.parametrize(
    "change",
    [
        augment.film,
        augment.expose,
        lambda x, rng: augment.move(x, x.shape[-2:], rng, 0.1, 0, 0, 0),
        lambda x, rng: augment.move(x, x.shape[-2:], rng, 0, 0.1, 0, 0),
        lambda x, rng: augment.move(x, x.shape[-2:], rng, 0, 0, 0.1, 0),
        lambda x, rng: augment.move(x, x.shape[-2:], rng, 0, 0, 0, 0.1),
    ],
)
def test_each_picture_is_changed_by_draws_of_its_own(change):
    before = left_breasts(8)
    after = change(before, generator(5))
    assert torch.equal(after, change(before, generator(5)))
    assert not torch.equal(after, change(before, generator(6)))
    assert all((a - b).abs().max() > 1e-4 for a, b in combinations(after, 2))
    assert torch.equal(before, left_breasts(8))


def test_a_move_by_nothing_leaves_a_picture():
    before = torch.rand(4, 2, 20, 30, generator=generator(0))
    after = augment.move(before, (20, 30), generator(1), 0, 0, 0, 0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_exposure_is_a_gamma_and_a_slope():
    grey = torch.linspace(0.05, 0.6, 30).view(1, 1, 5, 6).expand(200, 1, 5, 6)
    after = augment.expose(grey, generator(0)).flatten(1).numpy()
    log_grey = np.log(grey[0].flatten().numpy())
    found = np.array([np.polyfit(log_grey, np.log(row), 1) for row in after])
    fitted = found[:, :1] * log_grey + found[:, 1:]
    np.testing.assert_allclose(np.log(after), fitted, atol=1e-4)
    gamma, slope = np.log(found[:, 0]), np.exp(found[:, 1])
    for values, low, high in ((gamma, -0.25, 0.25), (slope, 0.85, 1.15)):
        assert values.min() >= low - 1e-3
        assert values.max() <= high + 1e-3
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def batch_of(n, classes=4, seed=0):
    rng = generator(seed)
    truth = torch.randint(classes, (n,), generator=rng)
    return {"pictures": torch.rand(n, 1, 4, 4, generator=rng), "truth": truth}


def logits_of(learner, pictures):
    return learner.objective.linear(pictures.flatten(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_loss_is_torchs(smoothing):
    learner = pixels(Settings(label_smoothing=smoothing, augment="none"))
    batch = batch_of(20)
    found = learner.loss(learner.prepare(batch, generator(0)))
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(
        logits_of(learner, batch["pictures"]), batch["truth"]
    )
    torch.testing.assert_close(found, expected)


def test_class_weights_count_each_image_by_its_class():
    weights = [0.5, 2.0, 1.0, 3.0]
    settings = Settings(label_smoothing=0.1, class_weight="balanced", augment="none")
    learner, batch = pixels(settings, weights=weights), batch_of(20)
    found = learner.loss(learner.prepare(batch, generator(0)))
    each = nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")(
        logits_of(learner, batch["pictures"]), batch["truth"]
    )
    torch.testing.assert_close(found, (each * torch.tensor(weights)[batch["truth"]]).mean())


def test_mixup_mixes_pictures_and_labels_alike():
    settings = Settings(label_smoothing=0.1, mixup=2.0, augment="none")
    weights = [0.5, 2.0, 1.0, 3.0]
    learner, batch = pixels(settings, weights=weights), batch_of(16)
    # a picture of one bright pixel says which pictures went into a mixture, and by how much
    batch["pictures"] = torch.eye(16).view(16, 1, 4, 4)
    smooth = functional.one_hot(batch["truth"], 4) * 0.9 + 0.1 / 4
    smooth = smooth * torch.tensor(weights)[batch["truth"]][:, None]
    shares, orders = [], set()
    for seed in range(300):
        ready = learner.prepare(batch, generator(seed))
        mixture = ready["pictures"].flatten(1)
        torch.testing.assert_close(mixture.sum(dim=1), torch.ones(16))
        torch.testing.assert_close(ready["wanted"], mixture @ smooth)
        mixed = mixture.diagonal()[mixture.diagonal() < 1 - 1e-6]
        shares.append(float(mixed[0]))
        assert torch.allclose(mixed, mixed[0])
        orders.add(tuple(mixture.fill_diagonal_(0).argmax(dim=1).tolist()))
    assert stats.kstest(shares, stats.beta(2, 2).cdf).pvalue > 1e-3
    assert len(orders) > 290
    again = learner.prepare(batch, generator(7))["pictures"]
    assert torch.equal(again, learner.prepare(batch, generator(7))["pictures"])
    ready = learner.prepare(batch, generator(1))
    expected = nn.CrossEntropyLoss()(logits_of(learner, ready["pictures"]), ready["wanted"])
    torch.testing.assert_close(learner.loss(ready), expected)


def test_pictures_are_normalised_as_the_recipe_says():
    side = nn.Flatten()
    learner = Classifier(side, CrossEntropy(12, 2), RECIPE, Settings(), np.ones(2))
    seen = torch.rand(5, 1, 2, 2)
    mean, std = np.array(RECIPE.mean), np.array(RECIPE.std)
    expected = (seen.numpy() - mean[:, None, None]) / std[:, None, None]
    found = learner.vectors(seen).view(5, 3, 2, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- the run of steps


class Steady(nn.Module):
    """Its gradient is 1 in every step, so that AdamW moves it by the rate."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.at, self.drawn = [], []

    def prepare(self, batch, rng):
        self.at.append(float(self.weight.detach()))
        self.drawn.append((float(torch.rand(1, generator=rng)), float(torch.rand(1))))
        return {"truth": batch["truth"]}

    def loss(self, batch):
        return self.weight.expand(len(batch["truth"])).mean()

    def log_probabilities(self, batch):
        return torch.full((len(batch["truth"]), 2), math.log(0.5))

    def groups(self):
        return [{"params": [self.weight], "lr": 0.1, "weight_decay": 0.0}]


def steady_rates(folder, **changes):
    settings = Settings(batch=4, clip=0.0, patience=0, augment="none", **changes)
    learner, source = Steady(), Pictures(torch.zeros(4, 1, 1, 1), [0, 1, 0, 1])
    fit(learner, source, source if settings.validation else None, settings, CPU, folder)
    return -np.diff(learner.at), learner.drawn


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_rates_rise_and_fall_as_torchs_schedulers_have_them(tmp_path, schedule):
    found, _ = steady_rates(tmp_path, epochs=31, schedule=schedule, warm_up=0.25, validation=0.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    rise = lr_scheduler.LinearLR(optimizer, 1 / 8, total_iters=7)
    kinds = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, 31 - 8),
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
    }
    reference = lr_scheduler.SequentialLR(optimizer, [rise, kinds[schedule]()], [8])
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_schedule_ends_at_nothing():
    assert factor(100, 100, Settings()) == pytest.approx(0)
    assert factor(0, 10, Settings(warm_up=0.0)) == 1


def test_a_plateau_of_fifty_epochs_halves_the_rate(tmp_path):
    found, _ = steady_rates(tmp_path, epochs=55, schedule="plateau", warm_up=0.0, validation=0.1)
    np.testing.assert_allclose(found, [0.1] * 52 + [0.05] * 2, rtol=1e-4)


def test_draws_go_by_seed_and_step(tmp_path):
    runs = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(runs))
        runs.append(steady_rates(tmp_path / folder, epochs=5, seed=seed, validation=0.0)[1])
    assert runs[0] == runs[1]
    values = np.array(runs).transpose(2, 0, 1)[:, ::2]
    assert all(len(np.unique(of_one)) == 10 for of_one in values)


def with_classifier():
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=4)
    for block in model.modules():
        if isinstance(getattr(block, "gamma", None), nn.Parameter):
            nn.init.constant_(block.gamma, 0.5)  # timm's 1e-6 hides the blocks
    return model


@cache
def textbook(settings):
    """Train timm's model with its classifier in plain torch: weights and loss of every step."""
    source, model = pictures(), with_classifier()
    groups = param_groups_layer_decay(model, settings.decay, layer_decay=settings.layer_decay)
    optimizer = torch.optim.AdamW(
        [{**g, "lr": settings.rate * g["lr_scale"]} for g in groups], lr=settings.rate
    )
    batches = math.ceil(len(source) / settings.batch)
    steps = batches * settings.epochs
    warm = round(settings.warm_up * steps)

    def share(step):
        if step < warm:
            return (step + 1) / warm
        return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    schedule = lr_scheduler.LambdaLR(optimizer, share)
    smoothed = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    states, losses, model = [], [], model.train()
    for epoch in range(settings.epochs):
        for items in Order(
            len(source), settings.batch, settings.seed, lambda epoch=epoch: epoch * batches
        ):
            batch = source[items]
            loss = smoothed(model(normalised(batch["pictures"])), batch["truth"])
            optimizer.zero_grad()
            loss.backward()
            length = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            assert length > settings.clip  # else this says nothing of clipping
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            states.append(copy.deepcopy(model.state_dict()))
    return states, losses


@torch.no_grad()
def scored(state, checked):
    model = with_classifier().eval()
    model.load_state_dict(state)
    return functional.cross_entropy(model(normalised(checked.pictures)), checked.truth).item()


def normalised(pictures):
    mean, std = (torch.tensor(v)[:, None, None] for v in (RECIPE.mean, RECIPE.std))
    return (pictures - mean) / std


def learner_of(settings, make=Classifier):
    """Take timm's model apart into an image side and a last layer."""
    began = with_classifier()
    side = timm.create_model("test_convnext", num_classes=0)
    side.load_state_dict({k: v for k, v in began.state_dict().items() if "head.fc" not in k})
    learner = classifier(side, settings, make=make)
    learner.objective.linear.load_state_dict(began.head.fc.state_dict())
    return learner


def assert_weights(learner, expected, tolerance=3e-5):
    found = learner.side.state_dict()
    found |= {f"head.fc.{k}": v for k, v in learner.objective.linear.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0, msg=name)


class Tight(Classifier):
    """Has no memory for more than four images."""

    def loss(self, batch):
        if len(batch["pictures"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().loss(batch)


class Late(Classifier):
    """Has no memory for more than four images once it holds another piece of the batch."""

    calls = 0

    def loss(self, batch):
        self.calls += 1
        if len(batch["pictures"]) > 4 and self.calls % 2 == 0:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return super().loss(batch)


@pytest.mark.parametrize(
    ("make", "micro", "left"),
    [(Classifier, 0, 16), (Classifier, 4, 4), (Tight, 0, 3), (Late, 6, 3)],
)
def test_steps_are_plain_torchs_whatever_fits_the_memory(tmp_path, make, micro, left):
    source, settings = pictures(), replace(SMALL, micro_batch=micro)
    states, losses = textbook(SMALL)
    learner = learner_of(settings, make)
    learnt = fit(learner, source, None, settings, CPU, tmp_path)
    assert (learnt.steps, learnt.planned, learnt.cut) == (6, 6, False)
    assert learnt.micro_batch == left
    moved = max((states[-1][k] - v).abs().max() for k, v in with_classifier().state_dict().items())
    assert moved > 1e-3
    assert_weights(learner, states[-1])
    found = [row["loss"] for row in learnt.curve]
    np.testing.assert_allclose(found, np.reshape(losses, (2, 3)).mean(axis=1), atol=1e-5)


def averages(states, decay):
    """Average exponentially by hand, from the weights after the first step on."""
    average, found = states[0], []
    for state in states:
        average = {k: decay * average[k] + (1 - decay) * state[k] for k in state}
        found.append(average)
    return found


def test_averaged_weights_are_averaged_by_hand(tmp_path):
    source, settings = pictures(), replace(SMALL, ema=0.8)
    states, _ = textbook(SMALL)
    learner = learner_of(settings)
    fit(learner, source, None, settings, CPU, tmp_path)
    expected = averages(states, 0.8)[-1]
    assert max((expected[k] - states[-1][k]).abs().max() for k in expected) > 1e-3
    assert_weights(learner, expected)


@pytest.mark.parametrize("ema", [0.0, 0.6])
@pytest.mark.parametrize("patience", [0, 2])
def test_the_best_epochs_weights_are_kept(tmp_path, ema, patience):
    source = pictures()
    # the better it learns, the worse it is at these
    checked = Pictures(source.pictures, (source.truth + 1) % 4)
    longer = replace(SMALL, epochs=5, warm_up=0.0)
    settings = replace(longer, ema=ema, validation=0.15, patience=patience)
    states, _ = textbook(longer)
    judged = (averages(states, ema) if ema else states)[2::3]
    expected = [scored(state, checked) for state in judged]
    best = int(np.argmin(expected))
    assert best < 2
    learner = learner_of(settings)
    learnt = fit(learner, source, checked, settings, CPU, tmp_path)
    epochs = best + patience + 1 if patience else 5
    assert (learnt.best, learnt.steps, learnt.cut) == (best, 3 * epochs, False)
    found = [row["validation_loss"] for row in learnt.curve]
    np.testing.assert_allclose(found, expected[:epochs], atol=1e-4)
    assert_weights(learner, judged[best])
    assert not learner.training


def test_an_average_leaves_whole_numbers_alone(tmp_path):
    """Classes of sentences and tokens are buffers, and an average of them is no token."""
    torch.manual_seed(0)
    of, tokens = list(range(12)) * 2, torch.randint(30_000, (24, 8))
    text = nn.EmbeddingBag(30_000, 16)
    layer = Contrastive(torch.randn(24, 16), of, 10.0, text, tokens.clone())
    settings = replace(SMALL, ema=0.9, epochs=4, objective="contrastive", tune_text=True)
    learner = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 16)), layer, Recipe(), settings, np.ones(12)
    )
    fit(learner, pictures(24, 12, size=4), None, settings, CPU, tmp_path)
    assert layer.of.tolist() == of
    assert torch.equal(layer.tokens, tokens)


def test_a_loss_that_is_no_number_names_step_and_images(tmp_path):
    source = pictures()
    source.pictures[20, 0, 3, 3] = math.nan
    learner = learner_of(SMALL)
    batches = list(Order(33, 16, SMALL.seed, lambda: 0))
    step = next(n for n, items in enumerate(batches) if 20 in items)
    first = ", ".join(f"film-{i}" for i in batches[step][:8])
    with pytest.raises(DataError, match=rf"^step {step}: the loss is nan.* was {first}, … \(11 in"):
        fit(learner, source, None, SMALL, CPU, tmp_path)


def test_no_memory_for_one_image_is_said(tmp_path):
    class Broken(Steady):
        def loss(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    source = Pictures(torch.zeros(4, 1, 1, 1), [0, 1, 0, 1])
    with pytest.raises(EmbedstoreError, match="not enough memory for one image"):
        fit(Broken(), source, None, SMALL, CPU, tmp_path)


def test_checkpoints_hold_tensors_only(tmp_path):
    source, settings = pictures(16), Settings(epochs=1, batch=8, augment="none", ema=0.5)
    learner = classifier(timm.create_model("test_convnext", num_classes=0), settings)
    fit(learner, source, pictures(8, seed=1), settings, CPU, tmp_path)
    for name in (LAST, BEST):
        torch.load(tmp_path / name, weights_only=True)


# --- settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("speed=3", "--set: no setting 'speed'; there are objective, "),
        ("epochs", "--set epochs: give NAME=VALUE"),
        ("epochs=many", "--set epochs=many: give a whole number"),
        ("epochs=1.5", "--set epochs=1.5: give a whole number"),
        ("rate=fast", "--set rate=fast: give a number"),
        ("rate=nan", "rate is nan; give 1e-09 to 10"),
        ("rate=-1", "rate is -1.0"),
        ("epochs=0", "epochs is 0; give 1 to 100000"),
        ("validation=0.6", "validation is 0.6; give 0 to 0.5"),
        ("ema=1", "ema is 1.0"),
        ("schedule=linear", "schedule is 'linear'; give cosine, plateau, constant"),
        ("tune_text=perhaps", "--set tune_text=perhaps: give true or false"),
        ("tune_text=true", "tune_text goes with the objective contrastive"),
    ],
)
def test_setting_that_does_not_fit_is_named(given, message):
    with pytest.raises(UsageError) as caught:
        settings_of("default", [given])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("given", [["lora=4", "freeze=1"], ["objective=contrastive", "mixup=0.2"]])
def test_settings_that_do_not_go_together_are_refused(given):
    with pytest.raises(UsageError, match=given[1].partition("=")[0]):
        settings_of("default", given)


@pytest.mark.parametrize("name", ["objective", "start", "schedule", "class_weight", "augment"])
def test_words_a_message_offers_are_taken(name):
    with pytest.raises(UsageError) as caught:
        settings_of("default", [f"{name}=nonsense"])
    offered = str(caught.value).partition("give ")[2].split(", ")
    assert len(offered) > 1
    for word in offered:
        settings_of("default", [f"{name}={word}"])


def test_settings_are_read_as_their_kinds():
    given = ["layer-decay = 0.5", "batch=8", "objective=contrastive", "tune_text=True"]
    found = settings_of("default", given, seed=4).to_dict()
    changed = {k: v for k, v in found.items() if v != RECIPES["default"].to_dict()[k]}
    assert changed == {
        "layer_decay": 0.5,
        "batch": 8,
        "objective": "contrastive",
        "tune_text": True,
        "label_smoothing": 0.0,  # sentences are true or not
        "seed": 4,
    }
    with pytest.raises(UsageError, match="known are default, molina2025"):
        settings_of("mine")


def test_the_studys_recipe_is_the_studys():
    found = settings_of("molina2025").to_dict()
    study = {
        "objective": "cross-entropy",
        "start": "random",
        "rate": 1e-4,
        "decay": 0.01,
        "batch": 64,
        "epochs": 200,
        "schedule": "plateau",
        "patience": 30,
        "augment": "none",
        "layer_decay": 1.0,
        "warm_up": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "ema": 0.0,
        "clip": 0.0,
        "freeze": 0,
        "lora": 0,
        "class_weight": "",
    }
    assert {k: found[k] for k in study} == study


def test_patience_without_validation_is_none():
    assert settings_of("default", ["validation=0"]).patience == 0


def test_no_better_than_even_chances_is_told_by_the_cross_entropy_of_a_uniform_answer() -> None:
    even = float(nn.functional.cross_entropy(torch.zeros(9, 4), torch.arange(9) % 4))
    above, below = ({"loss": 1.0, "validation_loss": even + more} for more in (1e-6, -1e-6))
    assert guesses([above, above], 4)
    assert not guesses([above, below], 4)
    assert not guesses([{"loss": 9.0}], 4)  # nothing was set aside

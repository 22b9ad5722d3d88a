"""Networks side by side are the networks one by one."""

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import Adaptive, Fixed, Rule, Sweep
from tests.oracles.problems import assert_same, difference, generator, gradients_on, states

MEMBERS, BATCH = 3, 4
RULES = {
    "default": Rule(),
    "clamped, current derivatives": Rule(
        output="clamped", relaxation_derivative="current", update_derivative="current"
    ),
    "postsynaptic": Rule(relaxation_derivative="postsynaptic", update_activity="current"),
    "dropped": Rule(relaxation_derivative="dropped", update_derivative="dropped"),
    "fixed feedback": Rule(feedback="fixed", initial="zero"),
    "learned feedback": Rule(feedback="learned", update_activity="current"),
}


def normalised(g: torch.Generator) -> nn.Module:
    """Layers that have no local rule, and one that is called twice."""
    twice = nn.Linear(6, 6)
    layers = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), twice, nn.ReLU(), twice, nn.PReLU()]
    model = nn.Sequential(*layers, nn.Linear(6, 3))
    for p in model.parameters():
        nn.init.normal_(p, std=0.4, generator=g)
    return model


MODELS = {
    "mlp": (lambda g: ardyn.mlp([4, 6, 5, 3], std=0.5, generator=g), (4,)),
    "cnn": (lambda g: ardyn.cnn("digits", std=0.2, generator=g), (1, 8, 8)),
    "normalised": (normalised, (4,)),
}


@pytest.fixture(params=MODELS)
def several(request):
    """Members, their inputs and targets, [member, batch, …]."""
    make, shape = MODELS[request.param]
    g = generator(7)
    models = [make(g).double() for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, BATCH, *shape, generator=g).double()
    outputs = models[0](inputs[0]).shape[1]
    return models, inputs, torch.randn(MEMBERS, BATCH, outputs, generator=g).double()


def flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def test_its_outputs_are_its_members_outputs(several):
    models, inputs, _ = several
    together = ardyn.ensemble(models)
    truth = torch.stack([model(x) for model, x in zip(models, inputs, strict=True)])
    assert difference(together(flat(inputs)).detach(), flat(truth).detach()) < 1e-14
    assert [name for name, _ in together.named_parameters()] == [
        name for name, _ in models[0].named_parameters()
    ]
    assert ardyn.ensemble_size(together) == MEMBERS
    assert ardyn.ensemble_size(models[0]) == 1


@pytest.mark.parametrize("solver", [Fixed("euler", 0.5), Sweep(0.5)], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_it_relaxes_and_learns_as_its_members_do(several, rule, solver):
    models, inputs, targets = several
    settings = {"rule": rule, "duration": 4.0, "solver": solver}
    together = ardyn.ensemble(models)
    psi: dict[str, Tensor] = {}
    if rule.feedback != "transpose":
        psi = ardyn.random_feedback(together, std=0.4, generator=generator(2))
    batch = (together, flat(inputs), flat(targets))
    value = ardyn.backward(*batch, **settings, feedback=psi)
    sim = ardyn.Relaxation(*batch, rule=rule, feedback=psi)
    found, gradients, total = states(sim.solve([4.0], solver)), gradients_on(together), 0.0
    for i, model in enumerate(models):
        own = {name: x[i].clone() for name, x in psi.items()}
        total += float(ardyn.backward(model, inputs[i], targets[i], **settings, feedback=own))
        assert_same({n: x[i] for n, x in gradients.items()}, gradients_on(model), 1e-12)
        alone = ardyn.Relaxation(model, inputs[i], targets[i], rule=rule, feedback=own)
        mine = {u: x.unflatten(1, (MEMBERS, BATCH))[:, i] for u, x in found.items()}
        assert_same(mine, states(alone.solve([4.0], solver)), 1e-12)
        if rule.feedback == "learned":
            learned = {name: x.grad[i] for name, x in psi.items() if x.grad is not None}
            assert_same(learned, {name: x.grad for name, x in own.items()}, 1e-12)
    assert float(value) == pytest.approx(total, rel=1e-12)


def test_its_closed_form_is_its_adaptive_solution(several):
    models, inputs, targets = several
    sim = ardyn.Relaxation(ardyn.ensemble(models), flat(inputs), flat(targets))
    adaptive = sim.solve([0.5, 3.0], Adaptive("dopri5", rtol=1e-9, atol=1e-12))
    assert_same(states(sim.solve([0.5, 3.0])), states(adaptive), 1e-7)
    settled = {u: x[-1] for u, x in states(sim.solve([100.0])).items()}
    assert_same(settled, sim.gradients, 1e-10)


def circular(g: torch.Generator) -> nn.Module:
    """Convolutions whose padding is no part of torch's call of one."""
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv1d(2, 1, 3, padding=1, padding_mode="circular"),
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.4, generator=g)
    return model.double()


def test_convolutions_that_are_not_padded_with_zeros_learn_side_by_side():
    g = generator(4)
    models = [circular(g) for _ in range(MEMBERS)]
    inputs, targets = torch.randn(2, MEMBERS, BATCH, 1, 5, generator=g).double()
    together = ardyn.ensemble(models)
    ardyn.backward(together, flat(inputs), flat(targets), duration=100.0)
    for i, model in enumerate(models):
        (model(inputs[i]) - targets[i]).square().sum().backward()
        mine = {name: x[i] for name, x in gradients_on(together).items()}
        assert_same(mine, gradients_on(model), 1e-12)


def test_a_member_can_be_taken_out_again(several):
    models, inputs, _ = several
    together = ardyn.ensemble(models)
    with torch.no_grad():
        for p in together.parameters():
            p.mul_(2.0)
    alone = ardyn.member(together, 1)
    assert type(alone) is type(models[1])
    for name, p in alone.state_dict().items():
        assert difference(p, 2 * models[1].state_dict()[name]) < 1e-15
    together_output = together(flat(inputs)).unflatten(0, (MEMBERS, BATCH))[1]
    assert difference(alone(inputs[1]).detach(), together_output.detach()) < 1e-14


def test_what_is_frozen_in_its_members_is_frozen_together(several):
    models, inputs, targets = several
    for model in models:
        next(model.parameters()).requires_grad_(False)
    together = ardyn.ensemble(models)
    ardyn.backward(together, flat(inputs), flat(targets), duration=3.0)
    first, *rest = (name for name, _ in models[0].named_parameters())
    assert sorted(gradients_on(together)) == sorted(rest)
    assert not ardyn.member(together, 1).get_parameter(first).requires_grad


def test_the_members_are_left_as_they_are():
    model = ardyn.mlp([4, 3], generator=generator())
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in ardyn.ensemble([model, model]).parameters():
            p.add_(1.0)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


class Bare(nn.Module):
    """A parameter beside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) * self.gain
        return y


def tied() -> nn.Module:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    return nn.Sequential(one, two)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "one or more modules, got none"),
        ([nn.Linear(4, 3), nn.Linear(4, 2)], "module 1 of the ensemble differs from the first"),
        ([nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3))], "module 1 of the ensemble differs"),
        ([nn.Sequential(nn.Linear(4, 3), f) for f in (nn.Tanh(), nn.ReLU())], "module 1 of the"),
        (
            [nn.Conv2d(1, 1, 3, padding=1, padding_mode=m) for m in ("zeros", "circular")],
            "1 of the",
        ),
        ([nn.Linear(4, 3), nn.Linear(4, 3).double()], "module 1 of the ensemble differs"),
        ([nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)], "module 1 of the ensemble"),
        ([nn.Linear(4, 3), nn.Linear(4, 3).eval()], "module 1 of the ensemble differs"),
        ([Bare(), Bare()], "parameter 'gain' of an ensemble belongs to Bare, which also has"),
        ([tied(), tied()], "parameter '1.weight' of an ensemble is tied to parameter '0.weight'"),
        ([nn.Sequential(nn.Linear(4, 3), nn.Dropout())], "Dropout '1' is in training mode"),
    ],
)
def test_modules_that_make_no_ensemble_are_refused(models, words):
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.ensemble(models)


def test_a_batch_that_does_not_go_round_is_refused():
    together = ardyn.ensemble([ardyn.mlp([4, 3]), ardyn.mlp([4, 3])])
    with pytest.raises(ardyn.InputError, match="3 samples cannot be divided evenly among 2"):
        ardyn.Relaxation(together, torch.zeros(3, 4), torch.zeros(3, 3))


@pytest.mark.parametrize("number", [-1, 2, 7])
def test_a_member_that_is_none_is_refused(number):
    models = [ardyn.mlp([4, 3]), ardyn.mlp([4, 3])]
    with pytest.raises(ardyn.InputError, match=f"no member {number} in .*an ensemble of 2"):
        ardyn.member(ardyn.ensemble(models), number)
    with pytest.raises(ardyn.InputError, match="an ensemble of 0"):
        ardyn.member(models[0], 0)


class Shifted(nn.Module):
    """A buffer, and no parameter."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Buffer(torch.tensor([shift]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def test_members_keep_buffers_of_their_own():
    models = [nn.Sequential(nn.Linear(4, 3), Shifted(s)) for s in (0.0, 5.0)]
    x = torch.randn(2, 3, 4, generator=generator())
    truth = torch.cat([model(each) for model, each in zip(models, x, strict=True)])
    assert difference(ardyn.ensemble(models)(flat(x)).detach(), truth.detach()) < 1e-6

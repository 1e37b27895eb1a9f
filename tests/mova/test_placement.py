from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mova.placement import CPU, Loan, Placement, Stay, tensors_of


class Adder(nn.Module):
    """A module whose parts have weights and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for a device: what waits is NaN, which would show in the result."""

    def lend(loan: Loan) -> None:
        for tensor, home in loan.waiting:
            tensor.data = home.clone()

    def give_back(loan: Loan) -> None:
        for tensor, home in loan.waiting:
            tensor.data = torch.full_like(home, torch.nan) if home.is_floating_point() else home

    monkeypatch.setattr(Loan, "lend", lend)
    monkeypatch.setattr(Loan, "give_back", give_back)


@pytest.fixture
def placement() -> Iterator[Placement]:
    torch.manual_seed(0)
    yield Placement(lambda _name: Adder().eval(), CPU)


@torch.no_grad()
@pytest.mark.parametrize("stay", [Stay.LENT, Stay.PARTS, Stay.KEPT])
def test_weights_are_there_while_they_are_used(placement: Placement, stay: Stay) -> None:
    x = torch.ones(3, 2)
    expected = placement.get("it")(x)
    with placement.use("it", stay) as module:
        assert torch.equal(module(x), expected)
    assert torch.equal(placement.get("it")(x), expected), "at home nothing has changed"


@torch.no_grad()
def test_parts_wait_but_for_the_one_that_computes(placement: Placement, poisoned: None) -> None:
    x = torch.ones(3, 2)
    module = placement.get("it")
    expected, homes = module(x), [tensor.data.clone() for tensor in tensors_of(module)]
    with placement.use("it", Stay.PARTS):
        assert torch.equal(module(x), expected)
        assert all(parameter.isnan().all() for parameter in module.parameters()), "each is given back at once"
    for tensor, home in zip(tensors_of(module), homes, strict=True):
        tensor.data = home
    assert torch.equal(module(x), expected), "outside, nothing is lent any more"


@torch.no_grad()
def test_what_is_kept_stays_until_it_is_given_back(placement: Placement, poisoned: None) -> None:
    x = torch.ones(3, 2)
    with placement.use("it", Stay.KEPT) as module:
        expected = module(x)
    assert torch.equal(module(x), expected)
    placement.give_back("it")
    assert module(x).isnan().all()


@torch.no_grad()
def test_the_outermost_use_says_how_and_the_last_ends_it(placement: Placement, poisoned: None) -> None:
    x = torch.ones(3, 2)
    outer = placement.use("it", Stay.LENT)
    module = outer.__enter__()
    expected = module(x)
    with placement.use("it", Stay.PARTS):
        assert torch.equal(module(x), expected)
    placement.give_back("it")
    assert torch.equal(module(x), expected), "still in use"
    outer.__exit__(None, None, None)
    assert module(x).isnan().all()


def test_a_loan_that_fails_half_way_is_undone(placement: Placement) -> None:
    class Refuses(torch.Tensor):
        def to(self, *_args: object, **_kwargs: object) -> torch.Tensor:
            raise torch.OutOfMemoryError

    module = placement.get("it")
    module.second.running_var = torch.ones(2).as_subclass(Refuses)
    before = [parameter.data_ptr() for parameter in module.parameters()]
    with pytest.raises(torch.OutOfMemoryError), placement.use("it"):
        pass
    assert [parameter.data_ptr() for parameter in module.parameters()] == before
    module.second.running_var = torch.ones(2)
    with placement.use("it"):
        pass

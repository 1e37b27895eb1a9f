"""The evaluation of all branches against the plain path: the same numbers, to the last bit in float32."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_towers import BRIDGES, audio_tower, bridge, joint, joint_inputs, video_tower, wave
from torch import Tensor, nn

from mova.checkpoint import load_component
from mova.evaluation import Branch
from mova.joint import JointTransformer, Part, TextContext
from tests.plain import evaluate_plainly

Prediction = tuple[Tensor, Tensor]
FPS = 24.0
# Text and bridge of each branch: guidance 1, guidance, dual guidance.
CHAINS = {
    "one": [(True, True)],
    "guided": [(False, True), (True, True)],
    "dual": [(False, False), (False, True), (True, True)],
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def prompts(batch: int = 1) -> dict[bool, Tensor]:
    return {True: wave(batch, 7, 12), False: wave(batch, 7, 12).flip(1) * 0.6}


def branches(model: JointTransformer, chain: str, *, cached: bool = True, batch: int = 1) -> list[Branch]:
    texts = {text: model.read(embeds, cached=cached) for text, embeds in prompts(batch).items()}
    return [(texts[text], bridged) for text, bridged in CHAINS[chain]]


def plainly(model: JointTransformer, inputs: Sequence[Tensor], chain: str, *, batch: int = 1) -> list[Prediction]:
    """A pass a branch, of the four tensors ``inputs``."""
    latents, audio_latents, timestep, audio_timestep = inputs
    return [
        evaluate_plainly(
            model,
            latents,
            audio_latents,
            timestep,
            audio_timestep,
            prompts(batch)[text],
            video_fps=FPS,
            use_bridge=bridged,
        )
        for text, bridged in CHAINS[chain]
    ]


def evaluate(model: JointTransformer, inputs: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Prediction]:
    latents, audio_latents, timestep, audio_timestep = inputs
    return model.evaluate(latents, audio_latents, timestep, audio_timestep, *args, video_fps=FPS, **kwargs)


def assert_same(ours: Sequence[Prediction], theirs: Sequence[Prediction], share: float = 0.0) -> None:
    """Bit by bit, or but for a ``share`` of the largest value."""
    for one, other in zip(ours, theirs, strict=True):
        for mine, reference in zip(one, other, strict=True):
            off = (mine - reference).abs().max().item()
            assert off <= share * reference.abs().max().item(), f"off by {off}"


def larger() -> tuple[Tensor, ...]:
    """Inputs of 5 x 5 x 7 = 175 video tokens and 23 audio tokens."""
    return wave(1, 36, 5, 10, 14), wave(1, 6, 23), torch.tensor([640.0]), torch.tensor([320.0])


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", BRIDGES)
def test_every_branch_is_what_a_pass_of_its_own_gives(name: str, chain: str, cached: bool) -> None:
    model, inputs = joint(**BRIDGES[name]), joint_inputs(1)[:4]
    assert_same(evaluate(model, inputs, branches(model, chain, cached=cached)), plainly(model, inputs, chain))


@pytest.mark.parametrize("chain", CHAINS)
def test_a_batch_too(chain: str) -> None:
    model, inputs = joint(pooled_adaln=True, trainable_condition_scale=True), joint_inputs(3)[:4]
    ours = evaluate(model, inputs, branches(model, chain, batch=3), token_chunk=13)
    assert_same(ours, plainly(model, inputs, chain, batch=3), 1e-6)


def test_the_plain_path_is_forward() -> None:
    for changes in BRIDGES.values():
        model, inputs = joint(**changes), joint_inputs(1)[:4]
        for use_bridge in (True, False):
            arguments = (*inputs, prompts()[True])
            forward = model(*arguments, video_fps=FPS, use_bridge=use_bridge)
            assert_same([forward], [evaluate_plainly(model, *arguments, video_fps=FPS, use_bridge=use_bridge)])


def test_forward_is_evaluate_with_towers_of_other_kinds() -> None:
    model = JointTransformer(
        video_tower(num_layers=4), audio_tower(num_layers=1, vae_type="oobleck"), bridge(audio_layers=1)
    )
    assert_same(evaluate(model, larger(), branches(model, "dual")), plainly(model, larger(), "dual"))


@pytest.mark.parametrize("size", [(2, 4, 6), (3, 18, 32)])
def test_the_playground_is_exact(playground: Path, size: tuple[int, int, int]) -> None:
    names = ("video_dit", "audio_dit", "dual_tower_bridge")
    model = JointTransformer(*(load_component(playground, name, None) for name in names))
    inputs = (wave(1, 36, *size), wave(1, 16, 21), torch.tensor([900.0]), torch.tensor([900.0]))
    embeds = {text: wave(1, 40, 64) * scale for text, scale in ((True, 1.0), (False, 0.4))}
    texts = [(model.read(embeds[text]), True) for text in (False, True)]
    plain = [evaluate_plainly(model, *inputs, embeds[text], video_fps=FPS) for text in (False, True)]
    assert_same(evaluate(model, inputs, texts), plain)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 100, 174, 175, 1000])
def test_chunks_change_nothing(chain: str, chunk: int) -> None:
    """Nothing at all, where this machine's matrix products of so few rows give the same bits as of many."""
    model = joint()
    texts = branches(model, chain)
    whole, chunked = (evaluate(model, larger(), texts, token_chunk=size) for size in (None, chunk))
    assert_same(chunked, whole, 0.0 if rows_agree(min(chunk, 175)) else 1e-6)


def rows_agree(rows: int) -> bool:
    """Whether products and attention of ``rows`` rows, or of as many as are left over, are those of 175."""
    count = -(-175 // rows)
    lengths = {-(-175 // count), 175 - (count - 1) * -(-175 // count)}
    x, weight, other = wave(1, 175, 64), wave(64, 64), wave(1, 2, 175, 24)
    whole, attended = F.linear(x, weight, weight[0]), F.scaled_dot_product_attention(other, other, other)
    return all(
        torch.equal(F.linear(x[:, :length], weight, weight[0]), whole[:, :length])
        and torch.equal(F.scaled_dot_product_attention(other[:, :, :length], other, other), attended[:, :, :length])
        for length in lengths
    )


def test_chunks_of_a_size_that_pays_are_exact() -> None:
    assert rows_agree(64), "on this machine even 64 rows are multiplied another way: the test above proves little"


def test_bfloat16_is_near_the_plain_path() -> None:
    model = joint().bfloat16()
    ours, plain = evaluate(model, larger(), branches(model, "guided")), plainly(model, larger(), "guided")
    for mine, reference in zip([x for pair in ours for x in pair], [x for pair in plain for x in pair], strict=True):
        assert mine.dtype is torch.bfloat16
        off = (mine.float() - reference.float()).square().mean().sqrt()
        assert off < 0.01 * reference.float().square().mean().sqrt()


def test_an_evaluation_leaves_what_it_was_given() -> None:
    model, inputs = joint(), larger()
    texts = branches(model, "dual")
    kept = [tensor.clone() for tensor in (*inputs, *tensors_of(texts))]
    first = evaluate(model, inputs, texts)
    assert all(torch.equal(one, other) for one, other in zip((*inputs, *tensors_of(texts)), kept, strict=True))
    assert_same(evaluate(model, inputs, texts), first)


def tensors_of(texts: Sequence[Branch]) -> Iterator[Tensor]:
    for text, _ in texts:
        assert text.heard is not None
        yield from (text.video, text.audio)
        yield from (tensor for heard in text.heard for pair in heard for tensor in pair)


def test_gradients_flow_through_forward_and_none_through_evaluate() -> None:
    model, inputs = joint(pooled_adaln=True, trainable_condition_scale=True), joint_inputs(1)
    with torch.enable_grad():
        video, audio = model(*inputs, video_fps=FPS)
        (video.square().mean() + audio.square().mean()).backward()
        evaluated = evaluate(model, inputs[:4], branches(model, "guided"))
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A key's bias adds the same to all that a query compares.
    assert [name for name in still if not name.endswith(("attention.in_proj_bias", ".k.bias"))] == []
    assert not any(tensor.requires_grad for pair in evaluated for tensor in pair)


@pytest.mark.parametrize(("chain", "times"), [("one", 1), ("guided", 1), ("dual", 2)])
def test_what_branches_share_of_the_first_layer_is_computed_once(chain: str, times: int) -> None:
    model = joint()
    counts = [Count(module) for module in shared_parts(model)]
    later = Count(model.video_dit.blocks[1].self_attn.o)
    evaluate(model, joint_inputs(1)[:4], branches(model, chain))
    assert [count.calls for count in counts] == [1, times, times, min(times, 1)]
    assert later.calls == len(CHAINS[chain])


def test_a_bridge_that_begins_later_is_no_reason_to_compute_the_first_layer_twice() -> None:
    model = joint(interaction_strategy="shallow_focus")  # of so few layers: none
    count = Count(model.video_dit.blocks[0].self_attn.o)
    evaluate(model, joint_inputs(1)[:4], branches(model, "dual"))
    assert count.calls == 1


def shared_parts(model: JointTransformer) -> list[nn.Module]:
    first = str(model.bridge.layers[0])
    return [
        model.video_dit.patch_embedding,
        model.video_dit.blocks[0].self_attn.o,
        model.audio_dit.blocks[0].self_attn.o,
        model.bridge.audio_to_video_conditioners[first].inner.o,
    ]


class Count:
    """How often a module was called."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


def test_the_text_is_read_once() -> None:
    model = joint()
    texts = branches(model, "guided")
    counts = [Count(model.video_dit.text_embedding), Count(model.audio_dit.blocks[1].cross_attn.k)]
    evaluate(model, joint_inputs(1)[:4], texts)
    assert [count.calls for count in counts] == [0, 0]


def test_rotary_tables_are_made_once_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = joint(), []

    def count(owner: nn.Module, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (made.append(name), original(*args))[1])

    count(model.video_dit, "rope")
    count(model.audio_dit, "rope")
    count(model.bridge, "aligned_rotary")
    texts = branches(model, "guided")
    for _ in range(2):
        evaluate(model, larger(), texts)
    assert made == ["aligned_rotary", "rope", "rope"]
    one, other = evaluate(model, joint_inputs(1)[:4], texts), evaluate(model, larger(), texts)
    assert len(made) == 9
    assert_same(evaluate(joint(), joint_inputs(1)[:4], texts), one)
    assert_same(evaluate(joint(), larger(), texts), other)
    longer = (larger()[0], wave(1, 6, 29), *larger()[2:])
    assert_same(evaluate(model, longer, texts), evaluate(joint(), longer, texts))
    assert len(made) == 12
    slower = model.evaluate(*larger(), texts, video_fps=12.0)
    assert len(made) == 15
    assert not torch.equal(slower[0][1], other[0][1])


class Shelf:
    """Lends packs: outside, their weights are not numbers."""

    def __init__(self, packs: dict[Part, list[Tensor]]) -> None:
        self.homes = {key: [(tensor, tensor.data) for tensor in pack] for key, pack in packs.items()}
        self.asked: list[Hashable] = []
        for pack in self.homes.values():
            for tensor, home in pack:
                tensor.data = torch.full_like(home, float("nan"))

    @contextmanager
    def lend(self, key: Hashable) -> Iterator[None]:
        self.asked.append(key)
        pack = self.homes[key]  # type: ignore[index]
        hidden = [tensor.data for tensor, _ in pack]
        for tensor, home in pack:
            tensor.data = home
        yield
        for (tensor, _), nothing in zip(pack, hidden, strict=True):
            tensor.data = nothing


@pytest.mark.parametrize("cached_text", [True, False])
@pytest.mark.parametrize("audio_apart", [True, False])
@pytest.mark.parametrize("name", ["full", "distributed", "pooled", "trained scale"])
def test_a_pack_holds_what_its_layer_uses(name: str, cached_text: bool, audio_apart: bool) -> None:
    model = joint(**BRIDGES[name])
    expected = plainly(model, larger(), "dual")
    shelf = Shelf(model.packs("second", cached_text=cached_text, audio_apart=audio_apart))
    read = [model.read(embeds, expert="second", lend=shelf.lend, cached=cached_text) for embeds in prompts().values()]
    texts = dict(zip(prompts(), read, strict=True))
    reading, shelf.asked = shelf.asked, []
    chain = [(texts[text], bridged) for text, bridged in CHAINS["dual"]]
    assert_same(evaluate(model, larger(), chain, lend=shelf.lend), expected)
    assert reading == [Part("second", layer, "text") for _ in range(2) for layer in range(3) if cached_text]
    assert shelf.asked == [Part("second", layer, "block") for layer in range(3)]


@pytest.mark.parametrize("cached_text", [True, False])
@pytest.mark.parametrize("audio_apart", [True, False])
def test_every_weight_travels_in_one_pack_or_stays(cached_text: bool, audio_apart: bool) -> None:
    model = joint(trainable_condition_scale=True)
    packs = model.packs("video_dit", cached_text=cached_text, audio_apart=audio_apart)
    all_of_them = [tensor for pack in packs.values() for tensor in pack] + model.resident(audio_apart=audio_apart)
    assert sorted(map(id, all_of_them)) == sorted(map(id, model.parameters()))
    kinds = {part.what for part in packs}
    assert kinds == ({"block", "text"} if cached_text else {"block"})
    travelling = {id(tensor) for pack in packs.values() for tensor in pack}
    assert any(id(parameter) in travelling for parameter in model.audio_dit.parameters()) is not audio_apart
    assert id(model.bridge.condition_scale) not in travelling


def test_buffers_travel_too() -> None:
    model = joint()
    table = torch.ones(3)
    model.video_dit.blocks[1].self_attn.q.register_buffer("scales", table)
    assert any(tensor is table for tensor in model.packs("video_dit", cached_text=True)[Part("video_dit", 1, "block")])


class Cancelled(Exception):
    pass


def test_a_word_between_the_layers_can_end_it() -> None:
    model, layers = joint(), []
    texts = branches(model, "guided")
    expected = evaluate(model, larger(), texts, before_layer=layers.append)
    assert layers == [0, 1, 2]

    def cancel(layer: int) -> None:
        if layer == 1:
            raise Cancelled

    lent: list[Hashable] = []

    def lend(key: Hashable) -> AbstractContextManager[None]:
        lent.append(key)
        return nullcontext()

    with pytest.raises(Cancelled):
        evaluate(model, larger(), texts, lend=lend, before_layer=cancel)
    assert lent == [Part("video_dit", 0, "block")]
    assert_same(evaluate(model, larger(), texts), expected)


def test_a_text_that_is_not_cached_holds_no_keys() -> None:
    text = joint().read(prompts()[True], cached=False)
    assert isinstance(text, TextContext)
    assert text.heard is None


def test_a_prediction_is_a_tensor_like_others() -> None:
    video, audio = evaluate(joint(), larger(), branches(joint(), "one"))[0]
    weight = torch.ones(1, requires_grad=True)
    with torch.enable_grad():
        ((weight * video).mean() + (weight * audio).mean()).backward()  # a teacher's, say
    video += 1
    assert weight.grad is not None

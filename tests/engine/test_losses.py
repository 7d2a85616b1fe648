"""The losses: values and gradients that follow from their definitions (T9 to T11 of the recipe)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.objective import cross_entropy
from bigrun.objective import targets as chunks
from bigrun.objective.losses import dino_loss, ibot_loss, koleo_loss
from bigrun.objective.targets import Targets

K = 12
SURE = 1e4
small = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 1000)


def draw(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def teach(logits: Tensor) -> Targets:
    """Targets softmax(logits), (G, n, K): with unit vectors as prototypes, bottlenecks are logits."""
    return Targets(logits, torch.eye(logits.shape[-1]), torch.zeros(logits.shape[-1]), 1.0)


def dino(student: Tensor, teacher: Tensor, temperature: float = 0.1, *, ignore_diagonal: bool) -> Tensor:
    """The loss of logits (ns, b, K) and of a teacher whose probabilities are softmax(teacher)."""
    return dino_loss(student, torch.eye(K), teach(teacher), temperature, ignore_diagonal=ignore_diagonal)


def pair_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """One pair of crops (b, K), by definition."""
    return -(teacher.softmax(-1) * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean()


# -- DINO -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_t09_a_student_sure_of_the_right_prototype_has_no_loss(ignore_diagonal: bool) -> None:
    right = F.one_hot(torch.tensor([3, 0, 7]), K).float().expand(2, 3, K)
    assert dino(100 * right, SURE * right, ignore_diagonal=ignore_diagonal) == 0


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_t09_a_uniform_student_has_ln_k_for_any_target(ignore_diagonal: bool) -> None:
    loss = dino(torch.zeros(2, 5, K), draw(2, 5, K, std=4), ignore_diagonal=ignore_diagonal)
    assert loss.item() == pytest.approx(math.log(K), abs=1e-6)


def test_t09_without_the_diagonal_two_crops_have_two_cross_terms() -> None:
    student, teacher = draw(2, 5, K), draw(2, 5, K, seed=1, std=4)
    cross = (pair_loss(student[0], teacher[1], 0.1) + pair_loss(student[1], teacher[0], 0.1)) / 2
    torch.testing.assert_close(dino(student, teacher, ignore_diagonal=True), cross)


def test_t09_the_gradient_of_one_pair() -> None:
    student, teacher = draw(1, 5, K).requires_grad_(), draw(1, 5, K, seed=1, std=4)
    (gradient,) = torch.autograd.grad(dino(student, teacher, ignore_diagonal=False), student)
    expected = (torch.softmax(student / 0.1, dim=-1) - teacher.softmax(-1)) / (0.1 * 5)
    torch.testing.assert_close(gradient, expected)


@small
@given(
    crops=st.integers(1, 5),
    teachers=st.integers(2, 3),
    images=st.integers(1, 4),
    ignore_diagonal=st.booleans(),
    seed=seeds,
)
def test_t09_equals_the_mean_over_explicit_pairs(
    crops: int, teachers: int, images: int, ignore_diagonal: bool, seed: int
) -> None:
    student, teacher = draw(crops, images, K, seed=seed), draw(teachers, images, K, seed=seed + 1, std=4)
    pairs = [
        pair_loss(student[s], teacher[t], 0.2)
        for s in range(crops)
        for t in range(teachers)
        if not (ignore_diagonal and s == t)
    ]
    result = dino(student, teacher, 0.2, ignore_diagonal=ignore_diagonal)
    torch.testing.assert_close(result, torch.stack(pairs).mean(), rtol=1e-5, atol=1e-5)


# -- in chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 200, 10_000])
@pytest.mark.parametrize("kept", [1, 300, 10_000])
def test_chunks_change_neither_loss_nor_gradient(elements: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against autograd through all logits at once, with real prototypes on both sides."""
    student, weight = draw(3, 7, 6).requires_grad_(), draw(40, 6, seed=1).requires_grad_()
    targets = Targets(draw(2, 7, 6, seed=2), draw(40, 6, seed=3), draw(40, seed=4), 0.3)
    logp = F.log_softmax(student @ weight.mT / 0.1, -1)  # (3, 7, 40)
    t = torch.softmax(targets.bottlenecks @ targets.prototypes.mT / 0.3 + targets.bias, -1)
    pairs = [-(t[u] * logp[s]).sum(-1).mean() for s in range(3) for u in range(2) if s != u]
    expected = torch.stack(pairs).mean()
    wanted = torch.autograd.grad(3 * expected, (student, weight))

    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(cross_entropy, "KEPT_ELEMENTS", kept)
    loss = dino_loss(student, weight, targets, 0.1, ignore_diagonal=True)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, (student, weight)), wanted)
    entropy = torch.special.entr(t).sum(-1).mean()
    torch.testing.assert_close(targets.entropy(), entropy)


def test_the_logits_of_all_rows_never_exist_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps, and the largest tensor that is made, are far below rows * K."""
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 2**14)
    monkeypatch.setattr(cross_entropy, "KEPT_ELEMENTS", 2**15)
    rows, prototypes = 256, 4096
    student, weight = draw(rows, 8).requires_grad_(), draw(prototypes, 8).requires_grad_()
    targets = Targets(draw(1, rows, 8), draw(prototypes, 8), torch.zeros(prototypes), 0.1)
    saved: list[int] = []
    largest = LargestTensor()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t), largest:  # type: ignore[func-returns-value]
        ibot_loss(student, weight, targets, torch.ones(rows), rows, 0.1).backward()
    assert sum(saved) <= rows * 8 + prototypes * 8
    assert largest.elements <= prototypes * 8  # the gradient of the prototypes
    assert largest.elements < rows * prototypes / 16


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """The size of the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("views", "teachers"), [(8, 2), (2, 8), (8, 8)])
def test_the_bounds_hold_for_all_crops_together(views: int, teachers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of V crops of the student and G of the teacher, a chunk and a block have as many times fewer rows."""
    chunk, kept, rows, prototypes = 2**15, 2**16, 64, 2048
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", chunk)
    monkeypatch.setattr(cross_entropy, "KEPT_ELEMENTS", kept)
    student, weight = draw(views, rows, 8).requires_grad_(), draw(prototypes, 8).requires_grad_()
    targets = Targets(draw(teachers, rows, 8), draw(prototypes, 8), torch.zeros(prototypes), 0.1)
    with LargestTensor() as products:
        dino_loss(student, weight, targets, 0.1, ignore_diagonal=True).backward()
    assert products.elements == kept
    with LargestTensor() as largest, torch.no_grad():
        dino_loss(student.detach(), weight.detach(), targets, 0.1, ignore_diagonal=False)
        targets.entropy()
    assert largest.elements == chunk


class MatrixProducts(torch.utils._python_dispatch.TorchDispatchMode):
    """How many products of two matrices are made."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [False, True])
def test_without_gradients_their_products_are_not_made(trained: bool) -> None:
    """Two products are logits and one adds up the teacher's crops; two more are gradients."""
    student, weight = draw(2, 5, 8).requires_grad_(), draw(K, 8).requires_grad_()
    targets = Targets(draw(2, 5, 8, seed=1), draw(K, 8, seed=2), torch.zeros(K), 0.1)
    with MatrixProducts() as full:
        expected = dino_loss(student, weight, targets, 0.1, ignore_diagonal=True)
    with MatrixProducts() as bare, torch.no_grad():
        inputs = (student, weight) if trained else (student.detach(), weight.detach())
        loss = dino_loss(*inputs, targets, 0.1, ignore_diagonal=True)
    assert torch.equal(loss, expected)
    assert not loss.requires_grad
    assert (full.count, bare.count) == (5, 3)


def test_bf16_rows_are_compared_in_fp32() -> None:
    student, targets = draw(2, 5, K), teach(draw(2, 5, K, seed=1, std=4).bfloat16().float())
    low = student.bfloat16()
    loss = dino_loss(low, torch.eye(K).bfloat16(), targets, 0.1, ignore_diagonal=True)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dino_loss(low.float(), torch.eye(K), targets, 0.1, ignore_diagonal=True))


def test_under_autocast_products_are_bf16_and_gradients_keep_the_type_of_the_weights() -> None:
    student, weight = draw(2, 5, 8).requires_grad_(), draw(K, 8).requires_grad_()
    targets = Targets(draw(2, 5, 8, seed=1), draw(K, 8, seed=2), torch.zeros(K), 0.1)
    exact = dino_loss(student, weight, targets, 0.1, ignore_diagonal=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dino_loss(student, weight, targets, 0.1, ignore_diagonal=True)
    assert loss.dtype == torch.float32
    assert loss != exact
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    gradients = torch.autograd.grad(loss, (student, weight))
    assert {g.dtype for g in gradients} == {torch.float32}


# -- iBOT -----------------------------------------------------------------------------------------------------


def ibot(student: Tensor, counts: list[int], crops: int, weight: Tensor | None = None) -> Tensor:
    """Masked patches of the crops in turn, `counts` of each."""
    weights = torch.tensor([1 / n for n in counts for _ in range(n)])
    weight = torch.eye(K) if weight is None else weight
    return ibot_loss(student, weight, teach(draw(1, len(student), K, seed=9, std=4)), weights, crops, 0.1)


def test_t10_twice_as_many_crops_without_a_mask_halve_the_loss() -> None:
    student = draw(6, K)
    assert ibot(student, [2, 4], crops=8).item() == pytest.approx(ibot(student, [2, 4], crops=4).item() / 2, rel=1e-6)


@pytest.mark.parametrize("count", [1, 3, 17])
def test_t10_a_masked_crop_weighs_the_same_whatever_it_hides(count: int) -> None:
    assert ibot(torch.zeros(count, K), [count], crops=1).item() == pytest.approx(math.log(K), abs=1e-5)
    assert ibot(torch.zeros(2 * count, K), [count, count], crops=2).item() == pytest.approx(math.log(K), abs=1e-5)


def test_t10_without_a_mask_the_loss_is_zero_and_the_head_has_zero_gradients() -> None:
    head, weight = torch.nn.Linear(5, K), torch.eye(K).requires_grad_()
    loss = ibot(head(torch.zeros(0, 5)), [], crops=4, weight=weight)
    assert loss == 0
    loss.backward()
    for parameter in (*head.parameters(), weight):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@small
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), empty=st.integers(0, 4), seed=seeds)
def test_t10_equals_the_mean_over_crops_of_the_mean_over_their_masked_patches(
    counts: list[int], empty: int, seed: int
) -> None:
    student, crops = draw(sum(counts), K, seed=seed), len(counts) + empty
    teacher = draw(1, len(student), K, seed=9, std=4)[0]
    parts = zip(student.split(counts), teacher.split(counts), strict=True)
    expected = sum((pair_loss(s, t, 0.1) for s, t in parts), torch.zeros(())) / crops
    torch.testing.assert_close(ibot(student, counts, crops), expected, rtol=1e-5, atol=1e-5)


# -- KoLeo ----------------------------------------------------------------------------------------------------


def test_t11_orthonormal_tokens() -> None:
    assert koleo_loss(torch.eye(8), 8).item() == pytest.approx(-0.5 * math.log(2), abs=1e-6)


def test_t11_an_antipodal_pair() -> None:
    """A diagonal masked with -1 instead of -inf gives 15.4: each point would be its own neighbour."""
    assert koleo_loss(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), 2).item() == pytest.approx(-math.log(2), abs=1e-6)


@small
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_t11_scale_and_rotation_do_not_matter(seed: int, scale: float) -> None:
    x = draw(8, 5, seed=seed)
    rotation = torch.linalg.qr(draw(5, 5, seed=seed + 1)).Q
    scales = scale * torch.linspace(0.5, 2, 8)[:, None]
    torch.testing.assert_close(koleo_loss(scales * x @ rotation, 8), koleo_loss(x, 8), rtol=1e-4, atol=1e-4)


@small
@given(seed=seeds, copies=st.integers(2, 4))
def test_t11_groups_do_not_see_each_other(seed: int, copies: int) -> None:
    x = draw(6, 5, seed=seed)
    torch.testing.assert_close(koleo_loss(x.repeat(copies, 1), 6), koleo_loss(x, 6))


@small
@given(seed=seeds, groups=st.integers(1, 3), size=st.integers(3, 6), neighbours=st.integers(1, 2))
def test_t11_equals_the_definition(seed: int, groups: int, size: int, neighbours: int) -> None:
    x = draw(groups * size, 4, seed=seed).double()
    z = F.normalize(x, dim=-1)
    logs = []
    for start in range(0, len(x), size):
        group = z[start : start + size]
        for i in range(size):
            apart = sorted((group[i] - group[j] + 1e-8).norm() for j in range(size) if j != i)
            logs += [math.log(d + 1e-8) for d in apart[:neighbours]]
    loss = koleo_loss(x, size, neighbours)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-sum(logs) / len(logs), abs=1e-4)


@pytest.mark.parametrize(("count", "expected"), [(2, -0.35), (16, -0.30), (64, -0.28), (256, -0.27)])
def test_t11_random_directions(count: int, expected: float) -> None:
    values = [koleo_loss(draw(count, 384, seed=s), count).item() for s in range(4096 // count)]
    assert sum(values) / len(values) == pytest.approx(expected, abs=0.01)


def test_t11_identical_tokens_have_a_finite_loss_and_gradient() -> None:
    x = torch.ones(4, 9).requires_grad_()
    loss = koleo_loss(x, 4)
    assert loss.item() == pytest.approx(-math.log(1e-8 * math.sqrt(9) + 1e-8), abs=1e-3)
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_t11_both_a_token_and_its_neighbour_are_moved() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]).requires_grad_()
    koleo_loss(x, 3).backward()
    assert x.grad is not None
    assert (x.grad.norm(dim=1) > 0.1).all()
    assert (x.grad[0] * torch.tensor([0.9, 0.1, 0.0])).sum() > 0  # a step against the gradient leads away from it


def test_t11_it_is_computed_in_fp32_under_autocast() -> None:
    x = draw(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(koleo_loss(x, 8), koleo_loss(x.clone(), 8))
        low = koleo_loss(x, 8)
    assert torch.equal(low, koleo_loss(x, 8))


@pytest.mark.parametrize(("group", "neighbours"), [(3, 1), (1, 1), (4, 4)])
def test_t11_groups_that_do_not_fit_are_refused(group: int, neighbours: int) -> None:
    with pytest.raises(ValueError, match="expected groups of more than"):
        koleo_loss(draw(8, 4), group, neighbours)

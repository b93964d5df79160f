"""Many copies in one launch: every value in its place, scaled and rounded, and nothing beside it."""

import pytest
import torch

from evenfall.kernels.scatter import Copy, Scatter


def copies(device, source=torch.float32, target=torch.bfloat16):
    """Matrices of unlike sizes into windows of two wider ones, and the wider ones."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device=device).to(source)

    one = torch.full((70, 90), 7.0, dtype=target, device=device)
    two = torch.full((300, 24), 7.0, dtype=target, device=device)
    made = [
        Copy(normal(4, 80), one[60:64, :80], 1.0),
        Copy(normal(1, 90), one[69:, :], 0.5),
        Copy(normal(300, 9), two[:, 3:12], 2.0),
        Copy(normal(20, 40)[:, 5:13], two[100:120, 14:22], -1.5),
        Copy(normal(1, 1), two[:1, 23:], 3.0),
    ]
    return made, (one, two)


@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16])
def test_every_window_holds_its_source_and_nothing_else_changed(device, source, target):
    made, wide = copies(device, source, target)
    before = [t.clone() for t in wide]
    Scatter(made).run()
    for one in made:
        want = (one.source.float() * one.scale).to(target)
        assert torch.equal(one.target, want)
        one.target.fill_(7.0)
    assert all(torch.equal(t, b) for t, b in zip(wide, before, strict=True))


def test_a_second_run_sees_new_values(device):
    made, _ = copies(device)
    scatter = Scatter(made)
    scatter.run()
    made[0].source.add_(1.0)
    scatter.run()
    assert torch.equal(made[0].target, made[0].source.bfloat16())


def test_sources_of_several_dtypes_are_copied_one_by_one(device):
    made, _ = copies(device)
    made[1] = made[1]._replace(source=made[1].source.double())
    Scatter(made).run()
    for one in made:
        assert torch.equal(one.target, (one.source * one.scale).bfloat16())


def test_matrices_that_do_not_fit_are_refused(device):
    made, _ = copies(device)
    for wrong in (made[0].source[:, 1:], made[0].source.t().contiguous().t()):
        with pytest.raises(ValueError, match="alike"):
            Scatter([made[0]._replace(source=wrong)])

"""ResCLIP's feedback: labels of patches and the map made of them, where rounding could decide."""

import pytest
import reference_rivals as rivals
import torch
import torch.nn.functional as F

from itaclip.recipes.resclip import feedback_maps, label_patches


def test_a_patch_takes_the_smallest_of_its_commonest_labels():
    """Query 2 on the left, query 1 on the right of an even surface: half of the middle each."""
    image = torch.zeros(3, 80, 121)
    similarities = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])
    similarities = similarities.expand(2, 3, 3)
    for threshold, expected in ((0.0, [2, 1, 1]), (0.999, [2, 0, 1])):
        found = label_patches(similarities, image[..., :120], 40, threshold)
        assert found.tolist() == [expected] * 2
        found = label_patches(similarities, image, 40, threshold)  # a column beyond the patches
        arguments = (similarities, image, 40, 40.0, threshold, 10, (8, 16))
        assert torch.equal(found, rivals.feedback_labels(*arguments))


@pytest.mark.parametrize("grid", [(14, 14), (7, 13), (3, 1), (1, 1)])
def test_maps_of_random_labels(grid):
    generator = torch.Generator().manual_seed(2)
    labels = F.interpolate(torch.rand(1, 1, 4, 4, generator=generator), grid, mode="bicubic")[0, 0]
    labels = (labels * 5).long()
    torch.testing.assert_close(feedback_maps(labels[None])[0], rivals.feedback_map(labels))


def test_long_lines_are_rounded_exactly():
    """One label along a line of 22 steps: the cell halfway between two rows is the even one."""
    labels = 1 + torch.arange(13 * 23).view(13, 23)
    for cell in rivals.straight_line((1, 0), (12, 22)):
        labels[cell] = 0
    torch.testing.assert_close(feedback_maps(labels[None])[0], rivals.feedback_map(labels))

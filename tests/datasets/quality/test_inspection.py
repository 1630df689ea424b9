"""Every fault is made on phantoms that are found faultless, and on the real mirror where it is there."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from monai_iln.datasets import REASONS, inspect_stacks, read_sunnybrook
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.quality.contrast import contrast
from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.errors import UserError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Six phantoms in which nothing is found."""
    folder = write_phantom(tmp_path_factory.mktemp("data") / "png", layout="png", slices=8, phases=4, size=160)
    stacks = read_sunnybrook(folder).stacks
    assert [f for f in inspect_stacks(stacks) if REASONS[f.reason].action == "exclude"] == []
    return stacks


def changed(stacks, index, **fields):
    return [replace(stack, **fields) if i == index else stack for i, stack in enumerate(stacks)]


def flagged(stacks, reason):
    return {(f.subject, f.phase, f.slice) for f in inspect_stacks(stacks) if f.reason == reason}


def frames(stacks, indices):
    return {(stacks[i].subject, stacks[i].phase, number) for i in indices for number in stacks[i].slices}


def moved(array, rows, columns=0):
    return np.roll(array, (rows, columns), (0, 1))


def test_contrast_by_hand():
    image, mask = np.zeros((128, 128)), np.zeros((128, 128))
    mask[50:70, 50:70] = 1
    image[40:80, 40:80] = 1
    image[50:70, 50:70] = 3
    assert contrast(image, mask) == pytest.approx((1 - 1 / 3) / 0.01)  # the ring of 2 pixels lies in the ones
    rng = np.random.default_rng(0)
    noisy = image + rng.normal(0, 0.1, image.shape)
    top = np.percentile(noisy, 99.5)
    ring = np.zeros_like(mask, bool)
    ring[48:72, 50:70] = ring[50:70, 48:72] = True  # dilation by crosses: a diamond's corners stay out
    inside = np.minimum(noisy / top, 1)[mask > 0]
    assert contrast(noisy, mask) == pytest.approx(
        (inside.mean() - 1 / top) / np.hypot(inside.std(), 0.1 / top), rel=0.1
    )
    assert contrast(-image, mask) < 0
    assert contrast(7 * image, mask) == pytest.approx(contrast(image, mask))
    assert contrast(image, np.zeros_like(mask)) == contrast(image, np.ones_like(mask)) == 0


def test_one_displaced_mask(good):
    label = good[2].label.copy()
    label[..., 1] = moved(label[..., 1], 0, 30)
    stacks = changed(good, 2, label=label, pool=None)
    assert flagged(stacks, "displaced") | flagged(stacks, "background") == {
        (good[2].subject, good[2].phase, good[2].slices[1])
    }


def test_a_displaced_subject_with_every_frame(good):
    stacks = list(good)
    for index in (4, 5):
        stacks[index] = replace(good[index], label=moved(good[index].label, 12, 12), pool=None)
    assert flagged(stacks, "displaced") == frames(good, (4, 5))


def test_a_mask_in_the_air(good):
    label = good[0].label.copy()
    label[..., 0] = 0
    label[2:14, 2:14, 0] = 1
    assert flagged(changed(good, 0, label=label, pool=None), "background") == {
        (good[0].subject, good[0].phase, good[0].slices[0])
    }


def test_two_subjects_swapped(good):
    """Of equal size, so that nothing but the images can tell."""
    one, other = good[:2], good[6:8]
    assert one[0].subject != other[0].subject
    stacks = list(good)
    for a, b in ((0, 6), (1, 7)):
        common = sorted({*good[a].slices} & {*good[b].slices})
        for here, there in ((a, b), (b, a)):
            own = [good[here].slices.index(number) for number in common]
            others = [good[there].slices.index(number) for number in common]
            stacks[here] = Stack(
                good[here].subject,
                good[here].phase,
                "",
                good[here].image[..., own],
                moved(good[there].label[..., others], 0),
                np.eye(4),
                tuple(common),
            )
    found = {finding.subject for finding in inspect_stacks(stacks) if finding.reason in ("other-subject", "displaced")}
    assert found == {one[0].subject, other[0].subject}


def test_identical_images(good):
    image = good[0].image.copy()
    image[..., 1] = good[3].image[..., 2]
    found = [f for f in inspect_stacks(changed(good, 0, image=image)) if f.reason == "same-image"]
    assert {(f.subject, f.phase, f.slice) for f in found} == {
        (good[0].subject, good[0].phase, good[0].slices[1]),
        (good[3].subject, good[3].phase, good[3].slices[2]),
    }
    assert f"{good[3].subject} {good[3].phase} slice {good[3].slices[2]}" in found[0].detail


def test_a_copied_image_without_a_label_is_one(good):
    """Else two subjects with one heart keep the slices beyond it, and end up in two folds."""
    label = good[0].label.copy()
    label[..., 1] = 0
    stack = replace(good[0], label=label, pool=None)
    copy = replace(stack, subject="copy")
    assert flagged([stack, copy, *good[2:]], "same-image") == frames([stack, copy], [0, 1])
    blank = np.zeros_like(stack.image)
    assert not flagged([replace(stack, image=blank), replace(copy, image=blank)], "same-image")


def test_area_jumps(good):
    before = flagged(good, "area-jump")
    label = good[0].label.copy()
    label[..., 2] = 0
    rows, columns = np.nonzero(good[0].label[..., 2])
    label[int(rows.mean()) - 2 : int(rows.mean()) + 2, int(columns.mean()) - 2 : int(columns.mean()) + 2, 2] = 1
    jumped = flagged(changed(good, 0, label=label, pool=None), "area-jump") - before
    assert (good[0].subject, "ED", good[0].slices[2]) in jumped
    assert {subject for subject, _, _ in jumped} == {good[0].subject}
    swapped = changed(changed(good, 0, phase="ES"), 1, phase="ED")
    grown = flagged(swapped, "area-jump") - before
    assert grown
    assert {(subject, phase) for subject, phase, _ in grown} == {(good[0].subject, "ES")}


def test_empty_masks_and_lone_subjects(good):
    """A basal slice without the structure is no fault; one subject has no others to be compared with."""
    label = good[0].label.copy()
    label[..., 0] = 0
    assert inspect_stacks([replace(good[0], label=label, pool=None)]) == []
    empty = replace(good[0], label=np.zeros_like(label), pool=None)
    assert [(f.reason, f.subject, f.phase) for f in inspect_stacks([empty])] == [
        ("not-inspected", empty.subject, empty.phase)
    ]
    assert inspect_stacks([]) == []


def test_a_thin_wall_proves_nothing_in_a_single_frame(good):
    label = good[0].label.copy()
    label[..., 1] = moved(label[..., 1], 0, 9)
    thick = changed(good, 0, label=label, pool=None)
    assert 0.3 < contrast(good[0].image[..., 1], label[..., 1]) < 0.5
    assert flagged(thick, "displaced")
    thin = [replace(stack, thick_wall=False) for stack in thick]
    assert not flagged(thin, "displaced")
    assert flagged(thin, "low-contrast") >= flagged(thick, "displaced")


def disc(contrasts, centres=None, subject="A", phase="ED", first=1, thick_wall=True):
    """Slices of noise around 0.5, in each a disc of the contrast asked for under the mask."""
    rng = np.random.default_rng(len(subject + phase) + first)
    rows, columns = np.mgrid[:128, :128]
    images, masks = [], []
    for contrast_, (row, column) in zip(contrasts, centres or [(64, 64)] * len(contrasts), strict=True):
        mask = np.hypot(rows - row, columns - column) < 24
        image = rng.normal(0.5, 0.1, mask.shape) + mask * contrast_ * 0.1 * np.sqrt(2)
        image[:12, :12] = 2  # what is brightest is elsewhere
        images.append(image)
        masks.append(mask)
    numbers = tuple(range(first, first + len(masks)))
    label = np.stack(masks, axis=-1).astype(np.uint8)
    return Stack(subject, phase, "", np.stack(images, axis=-1), label, np.eye(4), numbers, thick_wall=thick_wall)


def faults(stack):
    """But for the discs being alike."""
    return [(f.reason, f.slice) for f in inspect_stacks([stack]) if f.reason != "same-mask"]


def test_identical_masks_of_a_subject():
    stack = disc([2, 2], [(64, 64), (64, 70)])
    assert flagged([stack], "same-mask") == set()
    twice = disc([2, 2, 2], [(64, 64), (64, 70), (64, 64)])
    assert flagged([twice], "same-mask") == {("A", "ED", 1), ("A", "ED", 3)}
    assert flagged([stack, replace(stack, subject="B")], "same-mask") == set(), "another's is no fault in itself"


def test_a_subject_of_which_a_third_is_wrong_is_not_believed():
    centres = [(64, 64 + 2 * k) for k in range(9)]
    assert len(flagged([disc([0.1, 0.1, 0.1] + [2] * 6, centres)], "displaced")) == 3
    assert len(flagged([disc([0.1, 0.1, 0.1, 0.1] + [2] * 5, centres)], "displaced")) == 9


@pytest.mark.parametrize(
    ("contrast_", "thick_wall", "reason"),
    [(0.2, True, "displaced"), (0.2, False, "low-contrast"), (0.4, True, "low-contrast"), (0.62, True, None)],
)
def test_limits_of_contrast_for_one_frame(contrast_, thick_wall, reason):
    stack = disc([2, 2, contrast_, 2, 2], thick_wall=thick_wall)
    assert contrast(stack.image[..., 2], stack.label[..., 2]) == pytest.approx(contrast_, abs=0.06)
    assert faults(stack) == ([(reason, 3)] if reason else [])


@pytest.mark.parametrize(("thick_wall", "found"), [(True, True), (False, False)])
def test_limits_of_contrast_for_a_subject(thick_wall, found):
    stack = disc([0.42] * 5, thick_wall=thick_wall)
    assert (flagged([stack], "displaced") == frames([stack], [0])) is found


@pytest.mark.parametrize(("brightness", "reason"), [(0.3, "background"), (0.4, "displaced")])
def test_limits_of_brightness(brightness, reason):
    stack = disc([3] * 5)
    pool = stack.image[..., 0][stack.label[..., 0] > 0].mean()
    stack.image[..., 2] *= brightness * pool / stack.image[..., 2][stack.label[..., 2] > 0].mean()
    stack.image[..., 2][stack.label[..., 2] == 0] = brightness * pool
    stack.image[:12, :12, 2] = 2
    assert faults(stack) == [(reason, 3)]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_off_the_neighbours_on_either_side(index):
    """A middling contrast is doubtful only where the mask lies off those of the slices before and after."""
    contrasts, centres = [2, 2, 2], [(64, 64)] * 3
    contrasts[index], centres[index] = 0.5, (64, 70)
    assert flagged([disc(contrasts, centres)], "displaced") == {("A", "ED", index + 1)}
    centres[index] = (64, 66)
    assert not flagged([disc(contrasts, centres)], "displaced")


def test_a_neighbour_in_the_other_phase_speaks_for_a_mask():
    ed = disc([0.5, 2, 2], [(64, 70), (64, 64), (64, 64)])
    assert flagged([ed], "displaced") == {("A", "ED", 1)}
    es = disc([2, 2, 2], [(64, 70), (64, 64), (64, 64)], phase="ES")
    assert not flagged([ed, es], "displaced")


def test_few_common_slices_accuse_nobody():
    own = disc([0.8] * 6, subject="A")
    other = disc([3.0] * 6, subject="BB", first=5)  # the slices 5 and 6 are common
    assert not flagged([own, other], "other-subject")
    whole = disc([3.0] * 6, subject="BB")
    assert flagged([own, whole], "other-subject") == frames([own], [0])


def test_exclusion_takes_slices_and_keeps_geometry(good):
    stack = replace(good[0], affine=np.diag([1.5, 1.5, 8.0, 1.0]) + np.eye(4, k=3) * 7)
    numbers = stack.slices
    findings = [Finding("displaced", stack.subject, stack.phase, number, "", "") for number in (numbers[0], numbers[2])]
    (kept, *rest), gaps = exclude_slices([stack, *good[1:]], findings, choose_actions())
    indices = [1, *range(3, len(numbers))]
    assert kept.slices == tuple(numbers[i] for i in indices)
    np.testing.assert_array_equal(kept.image, stack.image[..., indices])
    np.testing.assert_array_equal(kept.label, stack.label[..., indices])
    assert kept.files == tuple(stack.files[i] for i in indices)
    first, last = kept.affine @ [0, 0, 0, 1], kept.affine @ [0, 0, len(indices) - 1, 1]
    np.testing.assert_allclose(first, stack.affine @ [0, 0, 1, 1])
    np.testing.assert_allclose(last, stack.affine @ [0, 0, len(numbers) - 1, 1])
    assert all(one is other for one, other in zip(rest, good[1:], strict=True))
    everything = [Finding("displaced", stack.subject, stack.phase, number, "", "") for number in numbers]
    assert [(gap.reason, gap.subject, gap.phase) for gap in gaps] == [("uneven-slices", stack.subject, stack.phase)]
    assert exclude_slices([stack, good[1]], everything, choose_actions()) == ([good[1]], [])
    assert exclude_slices([stack], findings[:1], choose_actions())[1] == [], "the first slice leaves no gap"
    assert exclude_slices([stack], findings, choose_actions(keep=["displaced"]))[0][0] is stack
    whole = Finding("misplaced", stack.subject, "", None, "", "of a cine, before its phases are named")
    assert exclude_slices([stack, good[-1]], [whole], choose_actions()) == ([good[-1]], [])
    low = [finding._replace(reason="low-contrast") for finding in findings]
    assert exclude_slices([stack], low, choose_actions())[0][0] is stack
    assert exclude_slices([stack], low, choose_actions(exclude=["low-contrast"]))[0][0].slices == kept.slices


@pytest.mark.parametrize(
    "wrong",
    [{"keep": ["nonsense"]}, {"keep": ["unreadable"]}, {"exclude": ["displaced"], "keep": ["displaced"]}],
)
def test_wrong_actions(wrong):
    with pytest.raises(UserError, match="each reason can be given once, and is one of outside-image, "):
        choose_actions(**wrong)


@pytest.mark.slow
def test_real_mirror(real_mirror):
    """The wrong series is found whole, and next to nothing else."""
    findings = inspect_stacks(real_mirror.stacks)
    out = Counter(
        subject
        for subject, _ in {(f.subject, (f.phase, f.slice)) for f in findings if REASONS[f.reason].action == "exclude"}
    )
    assert out.pop("SC-N-06") == 13
    assert out.total() <= 5


def test_real_mirror_in_part(real_mirror):
    """The wrong series is also found among few subjects, and by itself."""
    stacks = [s for s in real_mirror.stacks if s.subject in ("SC-N-05", "SC-N-06", "SC-N-07")]
    for part in (stacks, stacks[:4], stacks[2:4]):
        out = {f.subject for f in inspect_stacks(part) if REASONS[f.reason].action == "exclude"}
        assert out == {"SC-N-06"}


@pytest.mark.slow
def test_real_subjects_swapped(real_mirror):
    """Six pairs of subjects exchange their masks: each is found, none other is."""
    stacks = real_mirror.stacks
    names = sorted({stack.subject for stack in stacks} - {"SC-N-06"})
    rng = np.random.default_rng(0)
    chosen = [str(name) for name in rng.permutation(names)[:12]]
    by = {(stack.subject, stack.phase): stack for stack in stacks if stack.subject != "SC-N-06"}
    partner = dict(zip(chosen, chosen[6:] + chosen[:6], strict=True))
    swapped = []
    for (subject, phase), stack in by.items():
        giver = by[partner.get(subject, subject), phase]
        common = [number for number in stack.slices if number in giver.slices]
        own, theirs = ([s.slices.index(number) for number in common] for s in (stack, giver))
        swapped.append(
            replace(
                stack,
                image=stack.image[..., own],
                label=giver.label[..., theirs],
                pool=None,
                slices=tuple(common),
                files=(),
            )
        )
    found = Counter(f.subject for f in inspect_stacks(swapped) if f.reason in ("other-subject", "displaced"))
    assert {subject for subject, count in found.items() if count > 3} == set(chosen)

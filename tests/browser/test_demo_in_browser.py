"""The demo in a browser, from its file: a threshold is dragged, a digit is drawn."""

import copy
import re

import demo_page
import pytest

import pruning_lab as lab


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return demo_page.build(tmp_path_factory.mktemp("demo") / "demo.html")


@pytest.fixture
def demo(page, path):
    """The page when everything is measured; it may load nothing but itself."""
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    measured(page)
    yield page
    assert errors == []
    assert asked == [path.as_uri()]


def measured(page) -> str:
    page.wait_for_selector(".pl-status[data-state=final]")
    return page.locator(".pl-accuracy").inner_text()


def drag(page, place, *, start, end):
    """Between fractions of the width of a canvas."""
    box = page.locator(place).bounding_box()
    x, y = (lambda share: box["x"] + share * box["width"]), box["y"] + 0.6 * box["height"]
    page.mouse.move(x(start), y)
    page.mouse.down()
    page.mouse.move(x(end), y, steps=15)
    page.mouse.up()


def test_a_dragged_threshold_leaves_the_librarys_numbers(demo, path):
    network, val = demo_page.network(demo_page.contents(path)), demo_page.val()
    assert measured(demo) == f"{lab.evaluate(network, val).value:.2%}"
    drag(demo, ".pl-big", start=0.1, end=0.4)
    demo.wait_for_function("document.querySelector('.pl-attempt[data-number=\"2\"]')")
    seen, quality = measured(demo), float(demo.locator(".pl-quality").input_value())
    assert 1 < quality < 4
    pruned = lab.prune(network, quality={"fc1": quality}).apply_(copy.deepcopy(network))
    assert seen == f"{lab.evaluate(pruned, val).value:.2%}"
    kept = lab.counts.layers(pruned, (1, 28, 28)).total.kept
    assert f"{kept:,} of 266,200" in demo.locator(".pl-head").inner_text()
    demo.get_by_role("button", name="Undo").click()
    demo.wait_for_function("document.querySelector('.pl-here[data-number=\"1\"]')")
    assert measured(demo) == f"{lab.evaluate(network, val).value:.2%}"


def answers(page) -> list[tuple[int, int]]:
    """(digit, percent) of the dense network and of the pruned one."""
    page.wait_for_function("document.querySelector('.answer').textContent !== ''")
    page.wait_for_timeout(100)
    found = re.findall(r"(\d) \((\d+)%\)", page.locator(".answer").inner_text())
    return [(int(digit), int(percent)) for digit, percent in found]


def test_a_digit_is_drawn_with_the_mouse_and_read_before_and_after_pruning(demo):
    demo.locator("#pad .clear").click()
    box = demo.locator(".pad").bounding_box()
    for x, y in ((0.28, 0.2), (0.72, 0.2), (0.45, 0.85)):  # a seven
        demo.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=12)
        demo.mouse.down()
    demo.mouse.up()
    before = answers(demo)
    assert [digit for digit, _ in before] == [7, 7]
    assert before[0] == before[1]
    drag(demo, ".pl-big", start=0.1, end=0.95)  # nearly nothing is left of fc1
    measured(demo)
    dense, pruned = answers(demo)
    assert dense == before[0] != pruned


def test_a_digit_is_drawn_with_the_keyboard(demo):
    demo.locator("#pad .clear").click()
    demo.wait_for_function("document.querySelector('.answer').textContent === ''")
    demo.locator(".pad").focus()
    for key in [*7 * ["ArrowUp"], " ", *15 * ["ArrowDown"], " "]:
        demo.keyboard.press(key)
    assert answers(demo)[0][0] == 1
    demo.keyboard.press("Delete")
    demo.wait_for_function("document.querySelector('.answer').textContent === ''")

"""The pure part of the studio's JavaScript, run by node, asked what numpy and Python say."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pruning_lab

PAGES = Path(pruning_lab.__file__).parent / "pages" / "studio"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node on the PATH (Debian: nodejs)")


def node(script: str, **given):
    """What the script returns; it sees what is given, and all that the modules export."""
    modules = ("numbers", "requests", "trail")
    code = "\n".join(f"import * as {name} from '{(PAGES / name).as_uri()}.js'" for name in modules)
    code += f"\nconst given = {json.dumps(given)}\n"
    code += f"const answer = (() => {{ {script} }})()\nconsole.log(JSON.stringify(answer))"
    command = [NODE, "--input-type=module", "-e", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def layers():
    """Two layers, their counts on the grid by brute force, and the numbers as they are sent."""
    generator, step, made, offset = np.random.default_rng(0), 0.01, [], 0
    for n, zeros in ((400, 0), (3000, 700)):
        weights = np.abs(generator.normal(size=n))
        weights[:zeros] = 0
        alive = weights[weights > 0]
        sigma = alive.std()
        bins = int(alive.max() / (step * sigma)) + 1
        counts = [int((alive >= round(k * step, 10) * sigma).sum()) for k in range(bins + 1)]
        layer = {"weights": n, "alive": n - zeros, "sigma": sigma, "step": step, "bins": bins}
        made.append((layer | {"offset": offset, "flops": 2 * n}, alive, counts))
        offset += bins + 1
    return made


def test_counts_arrive_and_a_threshold_keeps_what_numpy_counts(layers):
    sent = np.array([n for *_, counts in layers for n in counts], dtype="<u4").tobytes()
    qualities = [0, 0.005, 0.01, 0.3, 0.61, 1.4, 2.97, 50]
    found = node(
        """const bytes = Uint8Array.from([0, 0, 0, ...given.sent]) // not aligned, as in a message
        const view = new DataView(bytes.buffer, 3)
        const counts = numbers.decodeCounts(view, given.layers)
        return given.layers.map((layer, i) => given.qualities.map(quality => {
          const q = numbers.onGrid(layer, quality)
          return [q, numbers.keptAt(layer, counts[i], q)] }))""",
        sent=list(sent),
        layers=[layer for layer, *_ in layers],
        qualities=qualities,
    )
    for (layer, alive, _), answers in zip(layers, found, strict=True):
        for asked, (quality, kept) in zip(qualities, answers, strict=True):
            assert quality == round(round(quality / layer["step"]) * layer["step"], 10)
            most = round(layer["bins"] * layer["step"], 10)
            assert abs(quality - min(asked, most)) <= 0.0051
            assert kept == (alive >= quality * layer["sigma"]).sum()


def test_the_quality_that_keeps_a_number_of_weights_is_the_largest_one(layers):
    layer, alive, counts = layers[1]
    wanted = [0, 1, 17, 500, 2299, 2300]
    found = node(
        "return given.wanted.map(n => numbers.qualityKeeping(given.layer, given.counts, n))",
        wanted=wanted,
        layer=layer,
        counts=counts,
    )
    grid = [round(k * layer["step"], 10) for k in range(layer["bins"] + 1)]
    for n, quality in zip(wanted, found, strict=True):
        assert quality == max(q for q in grid if (alive >= q * layer["sigma"]).sum() >= n)


def test_the_histogram_holds_every_weight_up_to_its_end_once(layers):
    layer, alive, counts = layers[0]
    end = layer["bins"] * layer["step"]
    script = "return numbers.histogram(given.layer, given.counts, given.end, 40)"
    columns = node(script, layer=layer, counts=counts, end=end)
    assert sum(columns) == pytest.approx(400)
    expected = np.histogram(alive / layer["sigma"], np.linspace(0, end, 41))[0]
    assert np.abs(np.array(columns) - expected).max() <= 12  # a column's ends lie within bins
    assert np.corrcoef(columns, expected)[0, 1] > 0.9


def test_totals_are_sums_and_bytes_stay_what_the_kernel_said_at_its_own_state(layers):
    rows = [{"kept": 100, "bytes": 500}, {"kept": 30, "bytes": 200}]
    given = {"layers": [layer for layer, *_ in layers], "rows": rows}
    total = node("return numbers.totals(given.layers, given.rows)", **given)
    assert (total["weights"], total["kept"]) == (3400, 130)
    assert total["density"] == pytest.approx(130 / 3400)
    assert (total["bytes"], total["denseFlops"]) == (700, 6800)
    assert total["flops"] == pytest.approx(2 * 400 * 100 / 400 + 2 * 3000 * 30 / 3000)
    script = """const [layer, row] = [given.layers[1], given.rows[1]]
        return [30, 300, 3000, 0].map(kept => numbers.bytesAt(layer, row, kept))"""
    same, more, most, none = node(script, **given)
    assert same == 200
    assert none == 0 < same < more < most
    assert more < 10 * same  # where more stay, the gaps between them cost fewer bits


def test_numbers_read_as_in_the_tables_of_the_library():
    script = """const n = numbers
      return [n.percent(1), n.percent(0.0123), n.percent(0.0009), n.count(430500), n.size(999, "B"),
        n.size(41234, "B"), n.size(2.29e6, "FLOP"), n.points(0.0125), n.points(-0.001), n.points(0),
        n.compression(0.08), n.compression(0), n.seconds(5.4), n.seconds(75)]"""
    assert node(script) == [
        *("100.0%", "1.2%", "0.09%", "430,500", "999 B"),
        *("41.2 kB", "2.3 MFLOP", "−1.25", "+0.10", "±0.00"),
        *("12.5×", "∞", "5 s", "1 min 15 s"),
    ]


def test_requests_are_sent_until_they_are_carried_out_and_a_drag_replaces_its_own():
    sent = node(
        """const sent = []
        const queue = new requests.Requests("v", value => sent.push(JSON.stringify(value.list)))
        const set = (drag, q) => ({ do: "set", drag, layers: { fc1: q } })
        queue.ask(set(1, 0.1)); queue.ask(set(1, 0.2)); queue.ask({ do: "undo" })
        queue.ask(set(2, 0.3)); queue.handled(2); queue.ask(set(2, 0.4))
        return [sent.map(JSON.parse), queue.waiting, (queue.handled(9), queue.waiting)]"""
    )
    lists, before, after = sent
    assert [[r["n"] for r in one] for one in lists] == [[1], [2], [2, 3], [2, 3, 4], [3, 5]]
    assert lists[-1][-1]["layers"] == {"fc1": 0.4}
    assert before is True
    assert after is False


def test_an_attempt_that_lost_a_fifth_of_the_accuracy_does_not_stretch_the_axes():
    def attempt(number, density, value):
        accuracy = {"value": value, "low": value - 0.01, "high": min(1, value + 0.01)}
        return {"number": number, "density": density, "accuracy": accuracy}

    attempts = [attempt(1, 1.0, 0.99), attempt(2, 0.1, 0.97), attempt(3, 0.001, 0.1)]
    attempts.append(attempt(4, 0.9, 0.7))
    script = "return given.now.map(now => trail.limits(given.attempts, now, []))"
    away, there = node(script, attempts=attempts, now=[2, 3])
    assert away["low"] > 0.9
    assert away["least"] == 0.05
    assert there["low"] < 0.1
    assert there["least"] <= 0.001

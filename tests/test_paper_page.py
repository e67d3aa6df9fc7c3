"""The page of the paper: every table and figure, with verdicts that can go either way."""

import html
import json
import re
from contextlib import chdir
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from pruning_lab import cli, experiments, files, paper, plots, reports
from pruning_lab.counts import LayerCount
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.experiments import Result, Rival, Trained, figures, penalties
from pruning_lab.experiments.tables import LayerRow, NetworkRow
from pruning_lab.rows import Rows
from pruning_lab.sensitivity import ScanPoint

TABLES = [f"table-{number}" for number in range(1, 7)]
FIGURES = [f"figure-{number}" for number in (1, 4, 5, 6, 7)]
LOSS, GAIN, OPEN = Drop.counted(90, 10, 1000), Drop.counted(10, 90, 1000), Drop.counted(3, 3, 1000)


def count(layer, theirs, factor=1.0):
    """What the paper has of a layer as we would count it, with so many times what is left."""
    weights, flops = round(theirs.weights), round(theirs.flops)
    kept, active = round(factor * theirs.density * weights), theirs.activation_density
    return LayerCount(
        layer, weights, kept, flops, 100, 1.0, active, factor * theirs.flop_density * flops
    )


def network_row(name, good=True, error=0.01):
    theirs = paper.TABLE_1[name]
    right = Accuracy.counted(round(1000 * (1 - error)), 1000)
    return NetworkRow(
        network=theirs.network,
        data="mnist",
        runs=2,
        accuracy=dict.fromkeys(("dense", "pruned", "control"), right),
        drop={"dense": OPEN, "control": OPEN if good else LOSS},
        parameters={"dense": 1_200_000, "pruned": 90_000, "alive": None},
        total=count("total", paper.LAYER_TABLES[name][-1]),
        theirs=theirs,
    )


def rival(method, right, to_pruned=None):
    accuracy, drop = Accuracy.counted(right, 1000), None if method == "Control" else OPEN
    return Rival(method, accuracy.error, 22_000, 12.1, accuracy, drop, to_pruned)


def rows_of(name, good):
    """Rows as our experiments make them; they say what the paper says, or the opposite."""
    kind, number = name.split("-")
    if name == "table-1":
        return [network_row(network, good) for network in paper.TABLE_1]
    if name == "table-6":
        gain, methods = GAIN if good else LOSS, ("Baseline", "Control", "Naive cut", "SVD")
        rows = [rival(method, 900, gain) for method in methods]
        quoted = Rival("SVD", 0.4402, 11_900_000, 5, note="quoted")
        return [*rows, rival("Network pruning", 970 if good else 890), quoted]
    if kind == "table":
        theirs = [*paper.LAYER_TABLES.values()][int(number) - 2]
        factor = 1.0 if good else 1.5
        return [LayerRow(row.layer, count(row.layer, row, factor), row) for row in theirs]
    if name == "figure-1":
        energy = paper.ENERGY_PJ | {"32 bit DRAM memory": 6400 if good else 5}
        return [figures.Energy(operation, pj, 1) for operation, pj in energy.items()]
    if name == "figure-4":
        middle = range(7, 21) if good else [*range(7), *range(21, 28)]
        lines = [("row", n) for n in range(28)] + [("column", n) for n in range(28)]
        return [figures.KeptLine(a, n + 1, 9, 0.2 if n in middle else 0.1) for a, n in lines]
    if name == "figure-5":
        right, change = Accuracy.counted(900, 1000), OPEN if good else LOSS
        levels = [(curve, level) for curve in penalties.CURVES for level in (0.2, 0.1)]
        return [penalties.CurvePoint(c, level, 5, right, change, OPEN) for c, level in levels]
    if name == "figure-6":
        lost = {"conv1": 0.5, "conv2": 0.2, "fc1": 0.1} if good else {"conv1": 0.1, "fc1": 0.5}
        about = {"quality": None, "threshold": None, "accuracy": Accuracy.counted(900, 1000)}
        return [
            ScanPoint(layer=layer, density=at, drop=LOSS if at <= level else OPEN, **about)
            for layer, level in lost.items()
            for at in (0.5, 0.2, 0.1)
        ]
    after = [9, 90, 900, 90, 0, 90, 900, 90, 9] if good else [0, 0, 9, 90, 900, 90, 9, 0, 0]
    return [figures.Bin(n / 10, (n + 1) / 10, 9, kept) for n, kept in enumerate(after)]


def result_of(name, good=True, **changes):
    compared = [
        penalties.Comparison(*claim[:2], 0.1, claim[2], GAIN if good else LOSS)
        for claim in penalties._CLAIMS
    ]
    rows = Rows(
        rows_of(name, good),
        caption=f"Here: {name}",
        sentences=("Two < three.",) if name in FIGURES else (),
        comparisons=tuple(compared) if name == "figure-5" else (),
    )
    trained = [Trained(experiments.paper_recipe("lenet-5"), "mnist-5k")]
    trained = [] if name == "figure-1" else trained
    made = Result.of(name, rows, trained, (0, 1), command=f"do {name}")
    return replace(made, **changes)


def save(folder, result):
    path = files.save_json(folder / f"{result.name}.json", result.record)
    if result.name in FIGURES:
        files.write(path.with_suffix(".png"), plots.png(Figure(figsize=(3, 2))))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with everything: as in the paper (True), and the opposite (False)."""
    made = {good: tmp_path_factory.mktemp("results") for good in (True, False)}
    for good, folder in made.items():
        for name in (*TABLES, *FIGURES):
            save(folder, result_of(name, good))
    return made


def page_of(folder):
    return reports.paper_html(reports.paper_sections(folder))


def part(page, name):
    """The text of a section, without tags."""
    inside = re.search(rf"<h2 id='{name}'>(.*?)(<h2|</body>)", page, re.DOTALL)[1]
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", inside)).split())


def test_an_empty_folder_gives_the_papers_numbers_and_what_to_type(tmp_path):
    sections = reports.paper_sections(tmp_path)
    assert [section.name for section in sections] == TABLES + FIGURES
    assert {section.verdict for section in sections} == {"not tried"}
    page = page_of(tmp_path)
    assert "11 tables and figures with numbers, 0 have been made here" in page
    for name in TABLES + FIGURES:
        kind, number = name.split("-")
        said = part(page, name)
        assert f"Not tried yet. The paper: {reports.paper.CLAIMS[name].text}" in said
        assert f"pruning-lab {kind} {number} --out {tmp_path}/{name}" in said
    assert "LeNet-5, pruned 0.77% 36K 12x" in part(page, "table-1")
    assert "conv2 307K 448M 52% 38% 33%" in part(page, "table-4")
    assert "Fastfood-16-AD 42.90% 16.4M 3.7x" in part(page, "table-6")
    assert "ours" not in page


def test_in_the_usual_folder_the_commands_need_no_out(tmp_path):
    with chdir(tmp_path):
        commands = [section.command for section in reports.paper_sections("runs/paper")]
    assert commands[2] == "pruning-lab table 3"
    assert commands[-1] == "pruning-lab figure 7"


@pytest.mark.parametrize("good", [True, False])
def test_every_verdict_can_come_out_either_way(folders, good):
    verdicts = {part.name: part.verdict for part in reports.paper_sections(folders[good])}
    assert verdicts == dict.fromkeys(TABLES + FIGURES, "holds" if good else "does not hold")
    page = page_of(folders[good])
    assert f"holds for {11 if good else 0}, in part for 0, and not for {0 if good else 11}." in page
    assert ("✓" in page.split("<table")[1]) is good
    assert ("✗" in page.split("<table")[1]) is not good


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("table-1", lambda rows: rows[:1], "✓ LeNet-300-100 on mnist, 2 runs: 13.3x fewer"),
        ("table-1", lambda rows: rows[:1], "○ VGG-16: not tried"),
        (
            "table-2",
            lambda rows: [replace(r, ours=replace(r.ours, flops_kept=r.ours.flops)) for r in rows],
            "✓ 12.5x fewer weights ✗ 1.0x fewer operations",
        ),
        (
            "table-6",
            lambda rows: [*rows[:3], replace(rows[3], to_pruned=OPEN), *rows[4:]],
            "✓ Naive cut: 22,000 parameters, error 10.00%, pruning +8.00",
        ),
        ("figure-1", lambda rows: [*rows[:-1], replace(rows[-1], picojoules=640.0)], "✗ 173 times"),
        (
            "figure-4",
            lambda rows: [replace(r, density=r.density * (r.along == "row")) for r in rows],
            "✗ the 14 columns in the middle keep 0.0%, the others 0.0%",
        ),
        (
            "figure-5",
            lambda rows: [replace(r, dense_drop=LOSS if r.density < 0.2 else OPEN) for r in rows],
            "✗ L2 iterative without loss to 5x",
        ),
        (
            "figure-6",
            lambda rows: [replace(r, layer=r.layer.replace("fc1", "conv3")) for r in rows[::-1]],
            "✗ of 2 pairs of conv3 and another layer, the first is more sensitive in 0",
        ),
        ("figure-7", lambda rows: [replace(r, dense=999) for r in rows], "✗ 198 weights in the"),
    ],
)
def test_a_claim_of_several_parts_holds_for_those_that_do(name, change, says, tmp_path):
    result = result_of(name)
    save(tmp_path, replace(result, rows=change(list(result.rows))))
    (found,) = (part for part in reports.paper_sections(tmp_path) if part.result)
    assert found.verdict == ("does not hold" if name == "figure-6" else "holds in part")
    assert says in part(page_of(tmp_path), name)


@pytest.mark.parametrize(
    ("drops", "holds"),
    [((GAIN, OPEN), True), ((OPEN, OPEN), False), ((GAIN, LOSS), False)],
)
def test_an_order_of_curves_is_seen_somewhere_and_reversed_nowhere(drops, holds, tmp_path):
    claim = penalties._CLAIMS[0]
    pairs = [penalties.Comparison(*claim[:2], 0.1, claim[2], drop) for drop in drops]
    save(tmp_path, result_of("figure-5", comparisons=pairs))
    (found,) = (part for part in reports.paper_sections(tmp_path) if part.result)
    better, worse = drops.count(GAIN), drops.count(LOSS)
    says = f"at {better} of 2 densities, reversed at {worse}"
    assert found.findings[0] == (holds, f"{claim[0]} above {claim[1]}: {says}")


def test_without_anything_to_compare_nothing_was_tried(tmp_path):
    own = [replace(network_row("lenet-5"), theirs=None)]
    save(tmp_path, result_of("table-1", rows=own))
    alone = [row for row in rows_of("figure-6", True) if row.layer == "conv1"]
    save(tmp_path, result_of("figure-6", rows=alone))
    assert "○ conv1 and another layer: none to compare" in part(page_of(tmp_path), "figure-6")
    assert {part.verdict for part in reports.paper_sections(tmp_path)} == {"not tried"}


def test_our_numbers_stand_beside_the_papers(folders):
    page = page_of(folders[False])
    assert "LeNet-5, pruned 0.77% 1.00% 36K 90,000 12x 13.3x (" in part(page, "table-1")
    assert "LeNet-5, control 1.00% " in part(page, "table-1")
    assert "fc2 5K 5,000 10K 10,000 100% 100.0% 19% 28.5% 10% 15.0%" in part(page, "table-3")
    assert "SVD 44.02% 10.00% (8.29% to 12.02%) +0.00 (" in part(page, "table-6")
    assert "11.9M 22,000 5x 12.1x" in part(page, "table-6")
    assert "Fastfood-32-AD 41.93% 32.8M 2x Fastfood-16-AD" in part(page, "table-6")


def test_the_differences_are_those_of_the_rows(tmp_path):
    rows = rows_of("table-3", True)
    rows[0] = replace(rows[0], ours=replace(rows[0].ours, kept=250, activation_density=0.7))
    save(tmp_path, result_of("table-3", rows=rows))
    errors = (("lenet-5", 0.01), ("lenet-300-100", 0.05), ("alexnet", 0.01))
    save(tmp_path, result_of("table-1", rows=[network_row(n, error=e) for n, e in errors]))
    page = page_of(tmp_path)
    said = part(page, "table-3")
    assert "weights% differs by more than 5 points in conv1 (50, paper 66)." in said
    assert "act% differs by more than 5 points in conv1 (70, paper 82)." in said
    assert "FLOP% differs by at most 5 points in all rows." in said
    said = part(page, "table-1")
    assert "LeNet-5, dense: error 1.00% (0.54% to 1.83%); the paper's 0.80% lies within it." in said
    assert re.search(
        r"LeNet-300-100, pruned: error 5.00% \(.*?\); the paper's 1.59% is lower", said
    )
    assert re.search(r"AlexNet, pruned: error 1.00% \(.*?\); the paper's 42.77% is higher", said)


def test_the_reasons_are_those_of_what_was_trained(tmp_path):
    small = {"width": 0.25, "size": 64, "classes": 10, "dropout": 0.2}
    made = [
        Trained(experiments.paper_recipe("lenet-5", "mnist"), "mnist"),
        Trained(experiments.paper_recipe("alexnet", "imagenette", small), "imagenette"),
    ]
    save(tmp_path, result_of("table-1", trained=made))
    save(tmp_path, result_of("table-3", trained=made[:1]))
    plain = [Trained(replace(made[0].recipe.unaugmented(), rounds=()), "mnist")]
    save(tmp_path, result_of("table-2", trained=plain))
    save(tmp_path, result_of("figure-6", trained=made[:1]))
    page = page_of(tmp_path)
    said = part(page, "table-1")
    assert "LeNet-5: trained on images that are shifted at random." in said
    assert re.search(
        r"AlexNet.*: images of imagenette, of 10 classes, not of imagenet; 0.25 of the", said
    )
    assert "The paper has no control" in said
    assert "by construction" not in said
    assert "at random; densities taken from the paper, so that weights% agree by" in part(
        page, "table-3"
    )
    said = part(page, "table-2")
    assert "LeNet-5: another network than the paper's, LeNet-300-100. act%" in said
    assert "another network than the paper's, AlexNet; images of mnist, not of imagenet" in part(
        page, "figure-6"
    )


def test_the_page_says_what_made_it_and_asks_nobody_for_anything(folders):
    page = page_of(folders[True])
    assert page.startswith("<!doctype html>")
    assert "://" not in page
    assert "<script" not in page
    assert page.count("<img") == page.count("data:image/png;base64,") == len(FIGURES)
    said = part(page, "figure-5")
    assert "Two < three." in said
    assert "do figure-5 seeds 0, 1; pruning_lab " in said
    links = re.findall(r"href='(.*?)'", page)
    assert links == [f"#{name}" for name in TABLES + FIGURES]
    assert page == page_of(folders[True])


def test_a_file_cannot_write_markup(tmp_path):
    evil = "<script>alert(1)</script>' onerror='x"
    rows = [replace(network_row("lenet-5"), network=evil, data=evil)]
    save(tmp_path, result_of("table-1", rows=rows, command=evil, machine={evil: evil}))
    save(tmp_path, result_of("figure-4", caption=evil, sentences=[evil]))
    save(tmp_path, result_of("table-3", caption=evil))
    page = page_of(tmp_path)
    assert "<script" not in page
    assert "' onerror" not in page
    assert page.count("&lt;script&gt;") > 6


BROKEN = {
    "is not JSON that can be read": lambda record: '{"name": ',
    "is not a table file": lambda record: json.dumps({"format": "pruning_lab plan 4"}),
    "is a table of another version": lambda r: json.dumps(r | {"format": "pruning_lab table 9"}),
    "rows[0].ours.kept must be whole number, got text": lambda record: json.dumps(
        record | {"rows": [record["rows"][0] | {"ours": record["rows"][0]["ours"] | {"kept": "9"}}]}
    ),
    "unknown field 'more'": lambda record: json.dumps(record | {"more": 1}),
    "the field 'seeds' is missing": lambda record: json.dumps(
        {name: entry for name, entry in record.items() if name != "seeds"}
    ),
    "is the file of 'table-2', not of table-3": lambda r: json.dumps(r | {"name": "table-2"}),
    "its rows are not those of table-3; make it again": lambda r: json.dumps(r | {"rows": []}),
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_broken_file_gets_one_sentence(says, tmp_path, capsys):
    path = tmp_path / "table-3.json"
    path.write_text(BROKEN[says](result_of("table-3").record))
    assert cli.main(("report", "--all", str(tmp_path))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pruning-lab: {path} ")
    assert says in line
    assert not (tmp_path / "paper.html").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<svg onload='alert(1)'/>", "is not a PNG picture"),
        (b"\x89PNG\r\n\x1a\n", "is not a PNG picture"),
        (None, "could not be read: No such file"),
    ],
)
def test_a_picture_is_a_png(content, says, tmp_path):
    path = save(tmp_path, result_of("figure-1")).with_suffix(".png")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=f"figure-1.png {says}"):
        reports.paper_sections(tmp_path)


def test_rows_come_back_from_the_file_as_they_were(folders):
    for name in TABLES + FIGURES:
        loaded, made = Result.load(folders[True] / f"{name}.json", name), result_of(name)
        assert tuple(loaded.rows) == tuple(made.rows)
        assert tuple(loaded.comparisons) == made.comparisons
        assert list(loaded.trained) == made.trained


# ---------------------------------------------------------------------------------------- command


def test_what_the_commands_leave_is_made_again_and_shown(tmp_path, capsys):
    with chdir(tmp_path):
        assert cli.main(("report", "--all")) == 0
        assert "Figure 1  not tried" in capsys.readouterr().out
        assert cli.main(("figure", "1")) == cli.main(("figure", "1")) == 0
        assert "wrote runs/paper/figure-1.png and runs/paper/figure-1.json" in (
            capsys.readouterr().out
        )
        assert cli.main(("report", "--all", "--json")) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["out"] == "runs/paper/paper.html"
        assert record["verdicts"]["figure-1"] == "holds in part"
        assert record["verdicts"]["table-1"] == "not tried"
        assert "12.8 W" in part((tmp_path / "runs/paper/paper.html").read_text(), "figure-1")


def test_a_file_that_is_named_is_not_replaced_and_no_other_kind_ever(tmp_path, capsys):
    with chdir(tmp_path):
        assert cli.main(("figure", "1", "--out", "one.png")) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"one.png", "one.json"}
        assert cli.main(("figure", "1", "--out", "one.png")) == 2
        assert "one.png is there already; add --force" in capsys.readouterr().err
        (tmp_path / "one.png").unlink()
        assert cli.main(("figure", "1", "--out", "one.png")) == 2
        assert "the .json beside one.json is there already" in capsys.readouterr().err
        assert cli.main(("report", "--all", ".", "--out", "page.html")) == 0
        assert cli.main(("report", "--all", ".", "--out", "page.html")) == 2
        assert "page.html is there already; add --force" in capsys.readouterr().err
        for words in (("table", "2"), ("figure", "1"), ("report", "--all")):
            (tmp_path / "runs/paper").mkdir(parents=True, exist_ok=True)
            for name in ("table-2.json", "figure-1.json", "paper.html"):
                (tmp_path / "runs/paper" / name).write_text("mine")
            assert cli.main(words) == 2
            assert "of another kind, which is never replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("report",), "or add --all for the page of the paper"),
        (("report", "--all", "nowhere"), "no folder nowhere; name one that has tables and figures"),
        (("report", "--all", "--dense", "a.safetensors"), "--dense goes with one network's file"),
    ],
)
def test_what_cannot_be_shown_gets_one_sentence(words, says, tmp_path, capsys):
    with chdir(tmp_path):
        assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())

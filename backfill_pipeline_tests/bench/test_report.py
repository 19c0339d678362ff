"""The report: every number comes from the results, the page's prose stays, and the plots can be read by everybody."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from backfill_pipeline.bench import report
from backfill_pipeline.bench.figures import (
    COPY,
    COPY_FOREIGN_KEYS,
    HELP,
    LATENCY,
    MAPPING,
    MAPPING_RULES,
    POSTING,
    POSTING_CONSTRAINED,
    RECONCILE,
    RESUMED,
    RUN,
    RUN_AGAIN,
    RUN_TWIN,
)
from backfill_pipeline.bench.results import Results, SectionResult, read_results
from backfill_pipeline.bench.targets import targets
from backfill_pipeline.bench.workloads import Role, Workload
from backfill_pipeline.errors import UsageError
from backfill_pipeline_tests.stages.world import CHECKOUT

RIVAL = "a rival <& friends>"
SVG = "{http://www.w3.org/2000/svg}"


def section(role: Role, entries: int, **seconds: float) -> SectionResult:
    """One round; each contender by the name of its constant."""
    names = {
        "copy": COPY, "copy_foreign_keys": COPY_FOREIGN_KEYS, "posting": POSTING, "constrained": POSTING_CONSTRAINED,
        "run": RUN, "reconcile": RECONCILE, "again": RUN_AGAIN, "twin": RUN_TWIN, "resumed": RESUMED, "rival": RIVAL,
        "mapping": MAPPING, "mapping_rules": MAPPING_RULES,
    }  # fmt: skip
    rounds = {names[name]: [{"seconds": value, "entries": float(entries)}] for name, value in seconds.items()}
    if RUN in rounds:
        rounds[RUN][0] |= {"process_peak_mib": 500.0 + entries / 100_000, "server_anonymous_peak_mib": 90.0}
    return SectionResult(Workload(role, entries, 10_000), rounds)


@pytest.fixture
def results() -> Results:
    main = section(
        "main", 1_000_000,
        copy=6.0, copy_foreign_keys=12.0, posting=7.5, constrained=15.0, run=18.0, reconcile=6.0, again=9.0, twin=16.2,
        resumed=21.6, rival=60.0, mapping=0.8, mapping_rules=1.12,
    )  # fmt: skip
    main.rounds[HELP] = [{"seconds": 0.6}, {"seconds": 0.4}, {"seconds": 0.2}]
    main.rounds[LATENCY] = [{"idle_p50_ms": 2.0, "idle_p99_ms": 4.04, "online_p99_ms": 30.0}]
    main.rounds[RESUMED][0] |= {"killed_after_s": 10.0, "resume_s": 11.6}
    return Results(
        taken_on="2026-01-31",
        machine={"processor": "one"},
        settings={"fsync": "on"},
        rivals=[RIVAL],
        skipped={"another rival": "it is not installed"},
        sections=[
            section("small", 100_000, copy=0.6, posting=0.9, run=9.0, reconcile=2.0),
            main,
            section("large", 5_000_000, copy=31.0, posting=40.0, run=62.0, reconcile=28.0),
            section("skewed", 1_000_000, copy=6.0, posting=8.0),
        ],
    )


class TestTargets:
    def test_each_is_a_ratio_of_what_was_measured(self, results: Results) -> None:
        measured = {target.what: target.measured for target in targets(results)}
        assert measured == pytest.approx(
            {
                "rate of posting ÷ plain COPY": 0.8,
                "rate of posting under all constraints ÷ plain COPY with foreign keys": 0.8,
                "time of backfill run ÷ plain COPY, 1,000,000 entries": 3.0,
                "time of backfill run ÷ plain COPY, 5,000,000 entries": 2.0,
                "rate of backfill run, 5,000,000 entries ÷ 1,000,000": (5 / 62) / (1 / 18),
                "rate of backfill reconcile ÷ backfill run": 3.0,
                "time of backfill run, a second time ÷ the first": 0.5,
                "time of backfill run with every row there under another source ÷ the first": 0.9,
                "time of mapping with 20 rules ÷ without": 1.4,
                "peak memory of backfill run": 550.0,
                "peak memory of backfill run, 5,000,000 entries ÷ 1,000,000": 550 / 510,
                "slowest of a hundred live postings (p99) beside an online load ÷ on an idle ledger": 30
                / 4.04,
                "time of backfill --help": 0.4,
            }
        )

    def test_a_bound_holds_or_not_and_may_be_weakened(self, results: Results) -> None:
        missed = [target for target in targets(results) if target.holds is False]
        assert [target.measured for target in missed] == [pytest.approx(0.9)]
        assert missed[0].holds_within(1.2)

    def test_what_was_not_measured_neither_holds_nor_fails(self, results: Results) -> None:
        nothing = dataclasses.replace(results, sections=[])
        assert {(target.measured, target.holds) for target in targets(nothing)} == {(None, None)}

    def test_a_promise_about_a_million_is_not_judged_by_less(self, results: Results) -> None:
        smaller = dataclasses.replace(results, sections=[section("main", 200_000, copy=1.0, run=9.0)])
        by_name = {target.what: target for target in targets(smaller)}
        assert by_name["time of backfill run ÷ plain COPY, 1,000,000 entries"].measured is None


class TestPage:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        page = tmp_path / "docs" / "page.md"
        page.parent.mkdir()
        page.write_text(f"# Before\n\n{report.BEGIN}\nold figures\n{report.END}\n\nAfter, 100 %.\n")
        return page

    def test_prose_is_kept_and_old_figures_are_replaced(self, page: Path, results: Results) -> None:
        for _ in range(2):
            report.write(results, page, page.parent / "images")
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{report.BEGIN}\n")
        assert text.endswith(f"{report.END}\n\nAfter, 100 %.\n")
        assert "old figures" not in text
        assert text.count("### Targets") == 1
        assert "(images/benchmark-rates.svg)" in text

    def test_a_page_without_a_place_stays_as_it_is(self, tmp_path: Path, results: Results) -> None:
        page = tmp_path / "page.md"
        page.write_text("# Only prose\n")
        with pytest.raises(UsageError, match="no place for the report"):
            report.write(results, page, tmp_path)
        assert page.read_text() == "# Only prose\n"
        assert list(tmp_path.iterdir()) == [page]

    def test_the_products_own_page_has_a_place(self) -> None:
        report.check(CHECKOUT / "docs" / "benchmarks.md")

    def test_tables_are_whole(self, results: Results) -> None:
        for block in report.markdown(results).split("\n\n"):
            if block.startswith("|"):
                assert len({line.count(" | ") for line in block.splitlines() if "---" not in line}) == 1, (
                    block
                )

    def test_says_what_was_measured_and_what_was_not(self, results: Results) -> None:
        text = report.markdown(results)
        assert "| plain COPY | 1,000,000 | 6.00 | 6.00 to 6.00 | 166,667 | 1.000 |" in text
        assert "another rival (it is not installed)" in text
        assert "| mapping, 20 rules | 1,000,000 | 1.12 | 1.12 to 1.12 | 892,857 |  |" in text
        assert "together 1.20 of the run that nobody disturbed" in text
        assert "| nothing else | 2.0 | 4.0 |" in text
        assert "fsync on" in text


class TestPlots:
    @pytest.fixture(params=["rates", "growth"])
    def plot(self, request: pytest.FixtureRequest, results: Results) -> ElementTree.Element:
        drawn = report.rates_plot(results) if request.param == "rates" else report.growth_plot(results)
        assert drawn is not None
        return ElementTree.fromstring(drawn[1])

    def test_can_be_read_aloud(self, plot: ElementTree.Element) -> None:
        assert plot.get("role") == "img"
        named = [plot.find(f"{SVG}*[@id='{one}']") for one in (plot.get("aria-labelledby") or "").split()]
        assert [one.tag.removeprefix(SVG) for one in named if one is not None and one.text] == [
            "title",
            "desc",
        ]
        description = (plot.findtext(f"{SVG}desc") or "").lower()
        assert POSTING in description
        assert RUN in description

    def test_can_be_read_on_light_and_on_dark_pages(self, plot: ElementTree.Element) -> None:
        assert "prefers-color-scheme: dark" in (plot.findtext(f"{SVG}style") or "")
        assert plot.find(f"{SVG}rect[@class='ground']") is not None

    def test_what_posts_nothing_is_no_bar(self, results: Results) -> None:
        drawn = report.rates_plot(results)
        assert drawn is not None
        assert MAPPING not in drawn[1]

    def test_nothing_leaves_the_picture(self, plot: ElementTree.Element) -> None:
        width, height = float(plot.get("width") or 0), float(plot.get("height") or 0)
        for one in plot.iter():
            for name, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
                assert 0 <= float(one.get(name, "0")) <= limit, ElementTree.tostring(one)

    def test_labels_of_lines_do_not_overlap(self, results: Results) -> None:
        drawn = report.growth_plot(results)
        assert drawn is not None
        texts = ElementTree.fromstring(drawn[1]).findall(f"{SVG}text")
        ends = sorted(
            float(text.get("y") or 0) for text in texts if ", " in (text.text or "") and not text.get("class")
        )
        assert len(ends) == 4
        assert all(after - before >= 15 for before, after in itertools.pairwise(ends))

    def test_one_size_makes_no_curve(self, results: Results) -> None:
        assert report.growth_plot(dataclasses.replace(results, sections=results.sections[:1])) is None


def test_results_survive_json(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


def test_another_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UsageError, match="cannot be read as results"):
        read_results(tmp_path / "other.json")

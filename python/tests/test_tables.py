"""Tables are read by other libraries, and say what the summary says."""

from __future__ import annotations

import json

import pytest

from kv_router_sim import Results, SimError, compare


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from kv_router_sim import Experiment

    exp = Experiment.load("doks-3xh200")
    exp = exp.set({"measure.window": "100s", "measure.seeds": 3, "workload.concurrency": 60})
    kept = exp.run(requests=True)
    kept_in = tmp_path_factory.mktemp("results") / "out"
    exp.run(out=kept_in, figures=False)
    return kept, json.loads((kept_in / "summary.json").read_text())


def test_tables_have_the_numbers_of_the_summary(results):
    kept, summary = results
    table, by_seed, long = kept.metrics, kept.metrics_by_seed, kept.intervals
    assert len(table) == len(summary["points"]) == table.num_rows
    assert len(by_seed) == 3 * len(table)
    rows = iter(range(len(long)))
    for at, point in enumerate(summary["points"]):
        assert {key: table[key][at] for key in point["params"]} == point["params"]
        for name, metric in point["metrics"].items():
            assert table[name][at] == metric["mean"], name
            assert by_seed[name][3 * at : 3 * at + 3] == metric["per_seed"], name
            row = next(rows)
            assert long["metric"][row] == name
            assert long["mean"][row] == metric["mean"]
            low_high = [long["ci95_low"][row], long["ci95_high"][row]]
            assert low_high == (metric["ci95"] or [None, None])
    assert by_seed["seed"][:3] == summary["provenance"]["seeds"]


def test_pandas_polars_duckdb_and_pyarrow_read_them(results):
    kept, _ = results
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    duckdb, pyarrow = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow")
    means = kept.metrics["ttft_ms_p95"]
    assert list(kept.metrics.to_pandas()["ttft_ms_p95"]) == means
    # Since pandas 3, which wants Python 3.11.
    if hasattr(pandas.DataFrame, "from_arrow"):
        assert list(pandas.DataFrame.from_arrow(kept.metrics)["ttft_ms_p95"]) == means
    assert polars.DataFrame(kept.metrics)["ttft_ms_p95"].to_list() == means
    arrow = pyarrow.table(kept.metrics)
    assert arrow.column_names == kept.metrics.column_names
    assert pyarrow.schema(kept.metrics) == arrow.schema
    requests = kept.requests
    ended = duckdb.sql("select count(*) from requests where \"end\" = 'finished'").fetchall()
    assert ended == [(requests["end"].count("finished"),)]


def test_nothing_is_copied(results):
    pyarrow = pytest.importorskip("pyarrow")
    table = results[0].metrics
    first, second = pyarrow.table(table), pyarrow.table(table)

    def address(of):
        return of["ttft_ms_p95"].chunk(0).buffers()[1].address

    assert address(first) == address(second)


def test_requests_are_those_of_the_csv(results, tmp_path):
    kept, _ = results
    table = kept.requests
    assert set(table["seed"]) == {1, 2, 3}
    assert min(table["prompt_tokens"]) >= 1
    finished = [row for row, end in enumerate(table["end"]) if end == "finished"]
    assert finished
    for row in finished:
        times = [table[name][row] for name in
                 ("sent_ms", "first_dispatched_ms", "scheduled_ms", "first_token_ms", "end_ms")]
        assert times == sorted(times)


def test_requests_that_were_not_kept_are_missed_by_name(doks):
    with pytest.raises(SimError, match="requests=True"):
        doks.run().requests
    with pytest.raises(KeyError, match="ttft_ms_p95"):
        doks.run().metrics["ttft"]


def test_a_value_is_found_by_its_point(results):
    kept, _ = results
    kv = kept.value("hit_ratio", {"router.policy": "kv"})
    assert kv > kept.value("hit_ratio", {"router.policy": "round_robin"})
    with pytest.raises(SimError, match="fits 2 of 2 points"):
        kept.value("hit_ratio")
    with pytest.raises(SimError, match="`hit_ratio`"):
        kept.value("hit_rato", {"router.policy": "kv"})


def test_figures_and_reports(results, tmp_path):
    kept, _ = results
    figure = kept.plot("ttft_ms_p95")
    assert figure._repr_svg_().startswith("<svg") and "TTFT" in figure.title
    for name in ("figure.svg", "figure.png"):
        figure.save(tmp_path / name)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SimError, match=r"\.svg or \.png"):
        figure.save(tmp_path / "figure.jpg")
    with pytest.raises(SimError, match="must be of one kind"):
        kept.plot("ttft_ms_p95", "hit_ratio")
    with pytest.raises(SimError, match="nearest"):
        kept.plot("tftt_ms_p95")
    report = kept.report()
    assert report.html.startswith("<!DOCTYPE html>") and "kv against round_robin" in report.html
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == report.html
    assert report._repr_html_().startswith("<iframe srcdoc=")


def test_matplotlib_draws_a_line_for_each_policy(doks):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    swept = doks.set("workload.concurrency", [40, 60, 80]).run()
    _, ax = pyplot.subplots()
    assert swept.plot("ttft_ms_p95", ax=ax) is ax
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == ["round_robin", "kv"]
    assert list(ax.get_lines()[0].get_xdata()) == [40, 60, 80]
    assert ax.get_ylabel() == "ttft_ms_p95 (ms)"


def test_points_in_columns_are_those_of_json(doks, tmp_path):
    exp = doks.set("workload.concurrency", [40, 60])
    kept = exp.run()
    columns = exp.run(out=tmp_path / "there", columns=True, figures=False)
    for read in (columns, Results.load(tmp_path / "there")):
        assert read.digests == kept.digests
        assert read.metrics.to_pydict() == kept.metrics.to_pydict()
        assert read.metrics_by_seed.to_pydict() == kept.metrics_by_seed.to_pydict()
        assert "4 points, 2 seeds, in columns" in str(read)
        for ask in (
            lambda: read.points, lambda: read.intervals, read.figures, read.report,
            lambda: read.value("hit_ratio"), lambda: read.plot("hit_ratio"),
            lambda: compare(read, kept), lambda: compare(kept, read),
        ):
            with pytest.raises(SimError, match="these 4 points are columns of a file"):
                ask()
    assert not (tmp_path / "there/summary.csv").exists()
    for wrong in ({}, {"out": tmp_path / "other", "requests": True}):
        with pytest.raises(SimError, match="columns=True: needs a folder"):
            exp.run(columns=True, **wrong)


def test_other_libraries_read_the_files_of_columns(doks, tmp_path):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    res = doks.run(out=tmp_path / "there", columns=True)
    frame = pandas.read_feather(tmp_path / "there/summary.arrow")
    assert list(frame["ttft_ms_p95"]) == res.metrics["ttft_ms_p95"]
    assert (frame["ttft_ms_p95_ci95_low"] <= frame["ttft_ms_p95"]).all()
    lazy = polars.scan_ipc(tmp_path / "there/seeds.arrow").select("router.policy", "seed")
    assert lazy.collect().rows() == [
        (policy, seed) for policy in ("round_robin", "kv") for seed in (1, 2)
    ]

"""Experiments are loaded, changed and run as on the command line."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from kv_router_sim import Experiment, Results, SimError, compare, frontier, policies


def test_a_run_has_the_digest_of_the_command_line(doks, sim, tmp_path):
    ours = doks.run()
    done = sim("run", "doks-3xh200", "--seeds", "2", "--set", "measure.window=100s",
               "--set", "workload.concurrency=60", "--no-figures", "--out", "there")
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "there/summary.json").read_text())
    assert ours.digest == theirs["provenance"]["digest"]
    assert done.stdout == str(ours)
    assert Results.load(tmp_path / "there").digests == ours.digests


def test_the_number_of_threads_changes_nothing(doks):
    assert doks.run(jobs=1).digest == doks.run(jobs=2).digest


def test_a_list_sweeps_and_a_list_in_a_list_does_not(doks):
    swept = doks.set("workload.concurrency", [60, 80])
    loads = [point["workload.concurrency"] for point in swept.points]
    assert loads == [60, 80, 60, 80]
    assert swept.set("workload.concurrency", 70).points[0]["workload.concurrency"] == 70
    assert swept.overrides[-1] == "sweep.workload.concurrency=[60, 80]"
    assert doks.set("measure.seeds", [3, 5]).seeds == [3, 5]
    assert doks.set("router.policy", ("kv",)).points[0]["router.policy"] == "kv"


def test_values_may_be_of_other_libraries(doks):
    numpy = pytest.importorskip("numpy")
    swept = doks.set("workload.concurrency", numpy.arange(60, 100, 20))
    assert [point["workload.concurrency"] for point in swept.points[:2]] == [60, 80]
    same = doks.set("measure.window", datetime.timedelta(seconds=100))
    assert same.run(jobs=1).digest == doks.run(jobs=1).digest
    assert doks.set("workload.concurrency", numpy.int64(61)).points[0]["workload.concurrency"] == 61


def test_an_experiment_does_not_change(doks):
    before = (doks.points, doks.config_hash)
    assert doks.set("router.policy", "kv").config_hash != before[1]
    assert (doks.points, doks.config_hash) == before


def test_keys_that_go_together_are_set_together(doks):
    several = doks.set({"workload.concurrency": 61, "router.policy": "kv"})
    assert several.points == [{"workload.concurrency": 61, "router.policy": "kv"}]


def test_parse_reads_a_text():
    text = 'name = "own"\nextends = "sim:/experiments/doks-3xh200.toml"\n'
    assert Experiment.parse(text, file="/tmp/own.toml").name == "own"
    with pytest.raises(SimError) as error:
        Experiment.parse("nmae = 1\n", file="/tmp/own.toml")
    assert error.value.place == "/tmp/own.toml:1"


BAD = [
    ("router.policy", "kw"),
    ("router.overlap_weihgt", 1),
    ("workload.concurrency", -1),
    ("workload.concurrency", "many"),
    ("measure.window", 60),
    ("measure.seeds", 0),
    ("engine.block_size", 7.5),
    ("router.temperature", float("nan")),
    ("cluster.workers", 0),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value}" for key, value in BAD])
def test_bad_input_gets_the_message_of_the_command_line(sim, key, value):
    with pytest.raises(SimError) as raised:
        Experiment.load("doks-3xh200").set(key, value)
    refused = sim("run", "doks-3xh200", "--set", f"{key}={value}")
    assert refused.returncode == 2
    assert f"error: {raised.value}".replace("set ", "--set ", 1) == refused.stderr.strip()
    assert raised.value.key == key
    assert raised.value.place == f"set {key}={value}"


def test_an_unknown_experiment_gets_the_message_of_the_command_line(sim):
    with pytest.raises(SimError) as raised:
        Experiment.load("doks-3xh20")
    assert f"error: {raised.value}" == sim("run", "doks-3xh20").stderr.strip()
    assert raised.value.place == "doks-3xh20"


def test_values_that_are_none_are_refused_by_name(doks):
    with pytest.raises(TypeError, match="is no value of an experiment"):
        doks.set("router.policy", object())
    with pytest.raises(SimError, match="a key and a value"):
        doks.set("router.policy")
    with pytest.raises(SimError, match="64 bits"):
        doks.set("workload.concurrency", 1 << 70)
    with pytest.raises(SimError, match="at least 1"):
        doks.run(jobs=0)


def test_results_are_saved_resumed_and_protected(doks, tmp_path):
    saved = doks.run(out=tmp_path / "out", figures=False)
    assert Path(saved.folder) == tmp_path / "out"
    assert (tmp_path / "out/summary.json").exists()
    assert Results.load(tmp_path / "out").digest == saved.digest
    other = doks.set("workload.concurrency", 61)
    with pytest.raises(SimError, match="force=True"):
        other.run(out=tmp_path / "out")
    assert other.run(out=tmp_path / "out", force=True, figures=False).digest != saved.digest
    with pytest.raises(SimError, match="has finished"):
        Results.load(tmp_path / "nothing")


def test_progress_counts_every_simulation(doks, capsys):
    told = []
    doks.run(progress=lambda done, all_: told.append((done, all_)))
    assert told[-1] == (4, 4)
    doks.run(progress=True)
    assert "4/4 simulations" in capsys.readouterr().err

    def broken(done, all_):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        doks.run(progress=broken)


def test_other_threads_run_meanwhile(doks):
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    doks.set("measure.window", "2000s").run(jobs=1)
    stop.set()
    thread.join()
    assert counted[0] > 20


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("what", ["exp.run(jobs=1)", "exp.simulation({'router.policy': 'kv'}).run()"])
def test_ctrl_c_ends_a_run(what):
    program = textwrap.dedent(f"""
        from kv_router_sim import Experiment
        exp = Experiment.load("doks-3xh200").set(
            {{"measure.window": "2000000s", "measure.seeds": 1, "workload.concurrency": 60}})
        print("running", flush=True)
        try:
            {what}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    # What a shell starts in the background ignores interrupts, and so would its children.
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("interrupted\n", 0)


def test_policies_are_listed_with_their_rules():
    listed = policies()
    assert len(listed) > 20
    assert "round_robin" in listed and all(listed.values())


def test_two_results_are_compared(doks):
    plain = doks.set("router.policy", "kv")
    before, after = plain.run(), plain.set("router.overlap_weight", 0.0).run()
    changed = compare(before, after, names=("plain", "without overlap"))
    assert "without overlap against plain" in str(changed)
    assert any(change["metric"] == "hit_ratio" for change in changed.to_dict()["changes"])
    with pytest.raises(SimError, match="ttft_ms_p95"):
        compare(before, after, metrics=["tftt_ms_p95"])
    with pytest.raises(SimError, match="nothing to compare"):
        compare(before, plain.set("workload.concurrency", 61).run())


def test_a_frontier_is_that_of_the_command_line(doks, sim):
    exp = doks.set("workload.concurrency", [60, 180])
    found = frontier(exp, within={"ttft_ms_p95": "600ms"}, loads=(60, 180, 40))
    done = sim("frontier", "doks-3xh200", *(part for one in exp.overrides for part in ("--set", one)),
               "--within", "ttft_ms_p95=600ms", "--loads", "60..180:40")
    assert done.returncode == 0, done.stderr
    assert str(found) == done.stdout
    assert len(found.to_dict()["answers"]) == 2
    with pytest.raises(SimError, match="within"):
        frontier(exp, within={"ttft_ms_p95": "fast"})
    with pytest.raises(SimError, match="does not sweep"):
        frontier(doks, load="cluster.workers")


def test_a_decision_is_explained(doks, tmp_path):
    run = doks.set({"router.policy": "kv", "measure.seeds": 1})
    words = run.run().explain(worst="ttft")
    assert "It met" in words and "first token" in words
    run.run(out=tmp_path / "out", figures=False)
    assert Results.load(tmp_path / "out").explain(worst="ttft") == words
    with pytest.raises(SimError, match='"ttft", "queue", "e2e"'):
        run.run().explain(worst="tftt")
    with pytest.raises(SimError, match="policy= and at= choose"):
        doks.run().explain(17)

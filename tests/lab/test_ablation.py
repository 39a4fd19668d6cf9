"""An ablation trains every variant with every seed, goes on where it was, and lets nobody change its plan."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stub_trials import ablation, member, settings, train
from test_trials import ROOT, wait_until

from xlab.errors import ConfigError
from xlab.lab.comparison import compare
from xlab.lab.experiment_plan import PLAN, alone, first_difference, keep_plan
from xlab.lab.pool import slots
from xlab.lab.run_groups import find_groups
from xlab.lab.runs import find_runs
from xlab.lab.slurm import write_array
from xlab.lab.trials import TrialFolder


def test_every_variant_has_every_seed_and_pairs_come_together(tmp_path: Path) -> None:
    said = train(ablation(tmp_path, member("base"), member("better", 1.5)))
    begun = [line.split(": ")[0] for line in said if line.startswith("[")]
    assert begun == ["[1/4] base seed 0", "[2/4] better seed 0", "[3/4] base seed 1", "[4/4] better seed 1"]
    comparison = compare(find_groups([str(tmp_path)]))
    (contrast,) = comparison.contrasts[comparison.place]
    assert contrast.effect.method == "paired"
    assert contrast.effect.difference == pytest.approx(-0.5, abs=0.01)


def test_equal_settings_differ_by_chance_and_the_data_do_not(tmp_path: Path) -> None:
    which = ablation(tmp_path, member("base"), member("same"))
    train(which)
    runs = {(run.trial or {})["variant"] + str(run.seed): run.settings for run in find_runs([tmp_path])}
    assert len({run["seed_everything"] for run in runs.values()}) == 4
    for seed in (0, 1):
        assert runs[f"base{seed}"]["data"] == runs[f"same{seed}"]["data"] == {"seed": seed}
    assert len({result.figure for result in which.results()}) == 4


def test_a_variant_that_fails_stops_no_other(tmp_path: Path) -> None:
    which = ablation(tmp_path, member("bad", fail_at=1), member("base"))
    train(which)
    assert [(r.variant, r.status, r.error) for r in which.results()] == [
        *[("bad", "failed", "the loss is nan")] * 2,
        *[("base", "finished", None)] * 2,
    ]
    assert train(which) == []  # what failed stays so,
    which.retry()  # until it is asked for
    assert sum("bad" in line and line.startswith("[") for line in train(which)) == 2


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    train(ablation(tmp_path, member("base"), member("other")))
    assert train(ablation(tmp_path, member("base"), member("other"))) == []


def test_the_best_place_of_a_grid_is_compared(tmp_path: Path) -> None:
    places = [("--lr=1", 2.5), ("--lr=2", 2.0), ("--lr=3", 2.2)]
    members = [member(name, loss, choice=(word,)) for name in ("base", "other") for word, loss in places]
    which = ablation(tmp_path, *members, seeds=2)
    said = train(which, parallel=2)
    assert sum(line.startswith("[") for line in said) == 2 * 3 + 2  # all on seed 0, the best on the other
    results = which.results()
    assert [(r.variant, r.seed, r.choice) for r in results] == [
        (name, seed, "lr=2") for name in ("base", "other") for seed in (0, 1)
    ]
    assert all(result.figure == pytest.approx(2.0, abs=1e-2) for result in results)
    assert which.choices()["base"].keys() == {"lr=1", "lr=2", "lr=3"}
    assert len(find_runs([tmp_path])) == 4  # what only chose is no result
    assert train(ablation(tmp_path, *members, seeds=2)) == []


def test_a_place_of_a_grid_that_fails_is_not_chosen(tmp_path: Path) -> None:
    members = [member("base", 1.0, choice=("--lr=9",), fail_at=0), member("base", choice=("--lr=1",))]
    members += [member("lost", choice=(word,), fail_at=0) for word in ("--lr=1", "--lr=9")]
    which = ablation(tmp_path, *members, seeds=1)
    train(which)
    base, lost = which.results()
    assert (base.status, base.choice) == ("finished", "lr=1")
    assert (lost.status, lost.error) == ("failed", "the loss is nan")


def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from stub_trials import ablation, member, train\n"
        "root = Path(sys.argv[2])\n"
        "held = member('other', hold_at=2, go=str(root / 'go'))\n"
        "train(ablation(root / 'out', member('base'), held))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT)
    second = tmp_path / "out" / "other" / "seed_0" / "logs" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        wait_until(lambda: second.exists() and json.loads(second.read_text())["step"] == 2)
    finally:
        process.kill()
        process.wait()
    orphan = json.loads((second.parents[1] / "run.json").read_text())["process"]
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not TrialFolder(second.parents[3]).is_locked())
    (tmp_path / "go").touch()
    said = train(ablation(tmp_path / "out", member("base"), member("other", hold_at=2, go=str(tmp_path / "go"))))
    begun = [line.partition("] ")[2].partition(":")[0] for line in said if line.startswith("[")]
    assert begun == ["other seed 0", "base seed 1", "other seed 1"]
    resumed = next(run for run in find_runs([tmp_path / "out"]) if run.name == "other seed 0")
    assert resumed.record["first_step"] == 2
    assert resumed.series("val/loss").steps.tolist() == [1, 2, 3, 4]


def test_a_plan_stays(tmp_path: Path) -> None:
    plan = ablation(tmp_path, member("base"), member("other")).plan.as_json()
    keep_plan(tmp_path, plan)
    keep_plan(tmp_path, plan)
    for changed, named in (
        (ablation(tmp_path, member("base"), member("other"), seeds=3), "seeds 2, now 3"),
        (ablation(tmp_path, member("base"), member("new")), "the variants base, other, now base, new"),
        (ablation(tmp_path, member("base"), member("other", 1.0)), "stub.loss of other 2.0, now 1.0"),
    ):
        with pytest.raises(ConfigError, match="was planned with") as error:
            keep_plan(tmp_path, changed.plan.as_json())
        assert named in str(error.value)
        assert "\n" not in str(error.value)


def test_steps_that_were_measured_anew_are_no_other_plan(tmp_path: Path) -> None:
    plan = ablation(tmp_path, member("base")).plan.as_json()
    longer = json.loads(json.dumps(plan))
    longer["variants"]["base"]["-"]["steps"] += 1
    assert first_difference(plan, longer) is None


def test_a_folder_of_something_else_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        keep_plan(tmp_path, {})
    (tmp_path / PLAN).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        keep_plan(tmp_path, {})


def test_one_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time; from pathlib import Path; from xlab.lab.experiment_plan import alone\n"
            "with alone(Path(sys.argv[1])): (Path(sys.argv[1]) / 'in').touch(); time.sleep(60)",
            str(tmp_path),
        ],
        cwd=ROOT,
    )
    try:
        wait_until((tmp_path / "in").exists)
        with pytest.raises(ConfigError, match="another process works in"), alone(tmp_path):
            pass
    finally:
        held.kill()
        held.wait()
    with alone(tmp_path):  # a killed one holds nothing
        pass


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert slots(1) == [{}]
    assert [slot["OMP_NUM_THREADS"] for slot in slots(3)] == ["2"] * 3
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3)] == ["0", "3", "0"]
    with pytest.raises(ConfigError, match="--parallel must be at least 1, got 0"):
        slots(0)


def test_a_slurm_array_has_a_task_for_each_trial(tmp_path: Path) -> None:
    which = ablation(tmp_path / "out", member("base"), member("other"))
    waiting = which.waiting()
    script = write_array(tmp_path / "out", waiting, at_once=3)
    assert "#SBATCH --array=0-3%3" in script.read_text()
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "base seed 1: finished\n"
    assert [folder.path for folder in which.waiting()] == [f.path for i, f in enumerate(waiting) if i != 2]


def test_settings_are_not_lost_on_the_way(tmp_path: Path) -> None:
    train(ablation(tmp_path, member("base"), seeds=1))
    (run,) = find_runs([tmp_path])
    assert run.settings["stub"] == settings()["stub"]

"""Which runs are trained, in which order, and what a second call finds."""

import math
import threading
import time

import pytest

from tests.compare.cases import Launcher, metrics, outcome, protocol, run
from turnout.compare.lock import locked
from turnout.compare.pace import Pace
from turnout.compare.process import Told
from turnout.compare.runner import PROTOCOL, RUNS, prepare, run_all
from turnout.compare.track import RESULT, write_outcome
from turnout.config.arms import arms, trials
from turnout.config.compare import CompareConfig, Wider, resolved
from turnout.config.errors import UserError


def falling(config):
    """Faster with the larger rate where there are experts, with the smaller one where not."""
    sparse = config.model.moe is not None
    good = (config.optimizer.learning_rate > 5e-3) == sparse
    return [4.0, 3.0, 2.5, 2.0 if good else 2.4]


def names(finished):
    return [each.planned.name for each in finished]


def test_trials_choose_and_the_chosen_rates_are_measured(tmp_path):
    launch, said = Launcher(falling), []
    finished = run_all(protocol(), tmp_path, said.append, launch)
    assert launch.launched == [
        *("dense-lr0.001-seed0", "experts-4-lr0.001-seed0"),
        *("dense-lr0.01-seed0", "experts-4-lr0.01-seed0"),
        *("dense-lr0.001-seed1", "experts-4-lr0.01-seed1"),
        *("dense-lr0.001-seed2", "experts-4-lr0.01-seed2"),
    ]
    assert names(finished) == launch.launched
    assert [(p.number, p.total, p.run) for p in said if p.done] == [
        (number, 8, name) for number, name in enumerate(launch.launched, 1)
    ]
    assert said[-1].seconds_left == 0
    assert [p.loss for p in said if p.run == "dense-lr0.001-seed2"] == [
        None,
        4.0,
        3.0,
        2.5,
        2.0,
        None,
    ]


def test_what_is_there_is_not_trained_again(tmp_path):
    first, second = Launcher(falling), Launcher(falling)
    done = run_all(protocol(), tmp_path, print, first)
    (tmp_path / RUNS / "dense-lr0.001-seed2" / RESULT).unlink()
    said = []
    again = run_all(protocol(), tmp_path, said.append, second)
    assert second.launched == ["dense-lr0.001-seed2"]
    assert names(again) == names(done)
    assert {p.number for p in said} == {7}


def test_an_interruption_keeps_what_is_done(tmp_path):
    launch = Launcher(falling)

    def interrupted(folder, lock, tell):
        if len(launch.launched) == 1:
            raise KeyboardInterrupt
        launch(folder, lock, tell)

    with pytest.raises(KeyboardInterrupt):
        run_all(protocol(), tmp_path, print, interrupted)
    assert launch.launched == ["dense-lr0.001-seed0"]
    rest = Launcher(falling)
    run_all(protocol(), tmp_path, print, rest)
    assert len(rest.launched) == 7 and "dense-lr0.001-seed0" not in rest.launched


def test_equal_losses_take_the_first_rate(tmp_path):
    launch = Launcher(lambda config: [3.0, 3.0, 3.0, 3.0])
    run_all(protocol(learning_rates=(1e-2, 1e-3)), tmp_path, print, launch)
    assert launch.launched[4:6] == ["dense-lr0.01-seed1", "experts-4-lr0.01-seed1"]


def test_a_rate_that_diverges_is_not_taken(tmp_path):
    def launch(folder, lock, tell):
        failed = "10 steps in a row were skipped" if "lr0.01" in folder.name else ""
        (folder / "metrics.jsonl").write_text("" if failed else metrics([3.0]))
        write_outcome(folder, outcome(failed=failed))

    finished = run_all(protocol(), tmp_path, print, launch)
    assert math.isinf(finished[2].final_loss) and finished[2].track is None
    assert {each.planned.rate for each in finished if each.planned.seed} == {1e-3}


def test_no_finite_rate_at_all_is_one_line(tmp_path):
    launch = Launcher(lambda config: [None, None, None, None])
    with pytest.raises(UserError, match="none leads dense to a finite loss; lower them"):
        run_all(protocol(), tmp_path, print, launch)


def test_the_protocol_is_written_first_and_kept(tmp_path):
    def launch(folder, lock, tell):
        assert (tmp_path / PROTOCOL).read_text() == protocol().toml()
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        run_all(protocol(), tmp_path, print, launch)
    refused = Launcher(falling)
    with pytest.raises(UserError) as error:
        run_all(protocol(seeds=5), tmp_path, print, refused)
    assert str(error.value) == (
        f"{tmp_path}: holds another protocol: compare.seeds is 2 there, 5 here; name another "
        f"folder with --out, or go on with --config {tmp_path}/protocol.toml --out {tmp_path}"
    )
    assert refused.launched == []
    assert (tmp_path / PROTOCOL).read_text() == protocol().toml()


@pytest.mark.parametrize("text", ["", "nonsense = [", "steps = 3"])
def test_a_broken_protocol_is_one_line(tmp_path, text):
    (tmp_path / PROTOCOL).write_text(text)
    with pytest.raises(UserError) as error:
        prepare(protocol(), tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / PROTOCOL).read_text() == text


@pytest.mark.parametrize("name", ["metrics.jsonl", "runs"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"holds {name} and no protocol\.toml, so it is no"):
        run_all(protocol(), tmp_path, print, Launcher(falling))
    assert {path.name for path in tmp_path.iterdir()} <= {name, "lock"}


def test_an_impossible_twin_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"compare\.dense_d_ff = 64"):
        prepare(protocol(dense_d_ff=64), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_launch_that_leaves_no_result_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run dense-lr0\.001-seed0: ended without"):
        run_all(protocol(), tmp_path, print, lambda folder, lock, tell: None)


def test_a_folder_is_one_comparisons_at_a_time(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="another turnout compare is at work there"),
        locked(tmp_path, patience=0.0),
    ):
        pytest.fail("locked twice")
    with locked(tmp_path, patience=0.0):
        pass


def test_half_a_line_of_a_killed_process_is_left_out():
    told = Told(3, 1.5)
    line = told.line().encode()
    assert Told.parsed(line) == told
    assert Told.parsed(line[:-4]) is None
    assert Told.parsed(b"[]\n") is None
    assert Told.parsed(b'{"colour": 1}\n') is None


def test_time_left_before_during_and_after_a_run():
    given = protocol()
    dense, sparse = arms(given)
    pace = Pace.of([(arm, 4) for arm in (dense, sparse) for _ in range(4)])
    first, second = trials(given)[:2]
    assert pace.total == 8 and pace.left() is None
    pace.begin(first, now=100.0)
    pace.step(first, 0, now=101.0)
    assert pace.left() is None
    pace.step(first, 2, now=104.0)
    # Two steps in 4 s: 2 s a dense step, 14 of which are left; a sparse one in proportion.
    proportion = sparse.step_flops / dense.step_flops
    assert pace.left() == pytest.approx(14 * 2 + 16 * 2 * proportion)
    pace.finish(first, outcome(step=4, first_step=0, seconds=12.0))
    # 3 s a step: 12 dense ones are left.
    assert pace.left() == pytest.approx(12 * 3 + 16 * 3 * proportion)
    pace.finish(second, outcome(step=4, first_step=2, seconds=14.0))
    # A resumed run: two steps in 14 s.
    assert pace.left() == pytest.approx(12 * 3 + 12 * 7)
    assert (pace.number(first), pace.number(second)) == (1, 2)


def test_a_resumed_run_does_not_owe_the_steps_it_has():
    given = protocol()
    dense, _ = arms(given)
    pace = Pace.of([(dense, 4)])
    pace.begin(trials(given)[0], now=0.0)
    pace.step(trials(given)[0], 3, now=1.0)
    pace.step(trials(given)[0], 4, now=5.0)
    assert pace.left() == 0
    assert pace.seconds == {"dense": 5.0}


def test_a_run_of_another_text_is_refused_at_once(tmp_path):
    launch = Launcher(falling)

    def changed(folder, lock, tell):
        launch(folder, lock, tell)
        if len(launch.launched) == 3:
            write_outcome(folder, outcome(text_sha256="cd" * 32))

    with pytest.raises(UserError) as error:
        run_all(protocol(), tmp_path, print, changed)
    assert str(error.value) == (
        "run dense-lr0.01-seed0: its text (sha256 cdcdcdcdcdcd) is not that of dense-lr0.001-seed0 "
        f"(abababababab); restore the text, remove {tmp_path}/runs/dense-lr0.01-seed0, and type "
        "the command again"
    )
    assert len(launch.launched) == 3


def test_more_arms_share_the_folder(tmp_path):
    given = resolved(run(), CompareConfig(learning_rates=(1e-3,), seeds=2, wider=Wider()))
    launch = Launcher(falling)
    run_all(given, tmp_path, print, launch)
    assert launch.launched == [
        *("dense-lr0.001-seed1", "experts-4-lr0.001-seed1", "dense-wider-lr0.001-seed1"),
        *("dense-lr0.001-seed2", "experts-4-lr0.001-seed2"),
    ]


def test_two_at_once_come_to_the_same(tmp_path):
    one, both, said = Launcher(falling), Launcher(falling), []
    meeting = threading.Barrier(2, timeout=60)

    def together(folder, lock, tell):
        meeting.wait()  # none is over before the other has begun
        both(folder, lock, tell)

    alone = run_all(protocol(), tmp_path / "one", print, one)
    paired = run_all(protocol(), tmp_path / "two", said.append, together, jobs=2)
    assert names(paired) == names(alone)
    assert [each.outcome for each in paired] == [each.outcome for each in alone]
    assert sorted(both.launched) == sorted(one.launched)
    # The trials are over before the rates that they choose are used.
    assert all(name.endswith("seed0") for name in both.launched[:4])
    assert sorted(p.number for p in said if p.done) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert said[-1].seconds_left == 0


def test_a_run_that_fails_stops_the_one_beside_it(tmp_path):
    told, going = [], threading.Event()

    def launch(folder, lock, tell):
        if folder.name.startswith("experts"):
            assert going.wait(60)
            raise UserError("run experts: no memory")
        for step in range(10**6):
            told.append(step)
            going.set()
            tell(Told(min(step, 3)))
            time.sleep(0.001)

    with pytest.raises(UserError, match="run experts: no memory"):
        run_all(protocol(), tmp_path, lambda now: None, launch, jobs=2)
    assert len(told) < 10**6


def test_time_left_of_two_at_once():
    given = protocol()
    dense, sparse = arms(given)
    first, second = trials(given)[:2]
    pace = Pace.of([(dense, 4), (sparse, 4)], jobs=2)
    pace.begin(first, now=0.0)
    pace.begin(second, now=1.0)
    for each in (first, second):
        pace.step(each, 0, now=1.0)
    pace.step(first, 2, now=4.0)
    pace.step(second, 1, now=7.0)
    # 2 s a dense step and two of them left, 6 s a sparse one and three left; two at a time.
    assert pace.left() == pytest.approx((2 * 2 + 3 * 6) / 2)

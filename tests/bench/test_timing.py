"""Spreads and ratios by hand, and who is timed how often."""

from turnout.bench.timing import FEW, Part, Spread, Times, interleaved


def test_quartiles_by_hand():
    # 1 2 3 4 5: a quarter of the way from the first to the last is 2, three quarters 4
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    # 1 2 3 4: the quarter lies at 0.75 of the way from 1 to 2, the three quarters at 3.25
    assert Spread.of([1.0, 2.0, 3.0, 4.0]) == Spread(1.75, 2.5, 3.25)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_ratio_is_of_the_same_repeat():
    times = Times({"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 4.0, 4.0]})
    # 3/1, 4/2 and 4/4: the median of 1, 2, 3; the ratio of the medians would be 4/2 too, but the
    # quartiles come from the repeats
    assert times.ratio("theirs", "ours") == Spread(1.5, 2.0, 2.5)


def test_a_ratio_takes_the_repeats_that_both_have():
    times = Times({"ours": [1.0, 2.0, 5.0], "slow": [10.0, 40.0]})
    assert times.ratio("slow", "ours") == Spread(12.5, 15.0, 17.5)


def test_ways_take_turns_and_are_warmed():
    calls = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = interleaved(ways, repeats=2, warm=1)
    assert "".join(calls) == "aabbaabb"
    assert {name: len(each) for name, each in times.seconds.items()} == {"a": 2, "b": 2}


def test_a_call_that_names_its_part_is_timed_by_it():
    times = interleaved({"part": lambda: Part(7.0)}, repeats=2)
    assert times.seconds["part"] == [7.0, 7.0]


def test_what_is_far_slower_is_timed_less_often(monkeypatch):
    calls = []
    now = [0.0]

    def slow():
        calls.append("slow")
        now[0] += 10

    def fast():
        calls.append("fast")
        now[0] += 1

    monkeypatch.setattr("turnout.bench.timing.time.perf_counter", lambda: now[0])
    times = interleaved({"fast": fast, "slow": slow}, repeats=5, warm=0, patience=4.0)
    assert list(times.seconds["fast"]) == [1.0] * 5
    assert list(times.seconds["slow"]) == [10.0] * FEW
    assert calls.count("slow") == FEW

"""The judge itself: a good record is green, and each injected fault is named."""

import copy
import unittest

from judge import judge


def record(**changes):
    """24 commands, one a second from 100 s on, each run 0.1 s later, by a stream since 99.5 s."""
    sent = [{"number": n, "at": 100.0 + n, "status": 202, "command": str(n), "state": "succeeded"} for n in range(24)]
    runs = [[n, 100.1 + n] for n in range(24)]
    samples = [[99.5 + n / 4, True, "stream", "then"] for n in range(108)]
    good = {"class": "streaming", "shows": ["stream"], "first_s_max": 2.0, "count": 24, "agent_started": 99.0, "sent": sent, "runs": runs}
    good |= {"samples": samples, "ended": 126.0, "log": [], "written": {"12": 10_000, "18": 5 << 20}, "body_max": 0, "refusals": 0}
    good["outputs"] = {"12": {"bytes": 10_000, "truncated": False}, "18": {"bytes": 65_536, "truncated": True}}
    return copy.deepcopy(good | changes)


class Judge(unittest.TestCase):
    def says(self, text, verdict):
        self.assertTrue(any(text in fault for fault in verdict.faults + verdict.late), verdict)

    def test_a_good_run_is_green(self):
        verdict = judge(record())
        self.assertTrue(verdict.green, verdict)
        self.assertEqual((verdict.measures["first_s"], verdict.measures["p50_s"], verdict.measures["shows"]), (1.1, 0.1, "stream"))

    def test_a_lost_command_is_noticed(self):
        bad = record()
        del bad["runs"][7]
        self.says("1 of 24 never ran: 7", judge(bad))

    def test_a_double_run_is_noticed(self):
        bad = record()
        bad["runs"].append([3, 110.0])
        self.says("run twice: 3", judge(bad))

    def test_a_result_that_is_not_reported_is_noticed(self):
        bad = record()
        bad["sent"][5]["state"] = "running"
        self.says("no result is at the hub: 5", judge(bad))

    def test_a_shortened_output_is_noticed(self):
        bad = record()
        bad["outputs"]["12"] = {"bytes": 4_000, "truncated": True}
        self.says("of 10000 bytes of output the hub has 4000", judge(bad))

    def test_a_proxy_that_limits_reports_gets_short_ones_and_is_not_asked_for_ever(self):
        small = record(body_max=8192, refusals=4)
        self.says("of 10000 bytes of output the hub has 10000", judge(small))
        for number in ("12", "18"):
            small["outputs"][number] = {"bytes": 4_000, "truncated": True}
        self.assertTrue(judge(small).green, judge(small))
        self.says("were sent 400 times", judge(small | {"refusals": 400}))

    def test_lateness_alone_is_distinguished(self):
        bad = record()
        bad["runs"][9][1] += 2.5
        verdict = judge(bad)
        self.says("worst latency 2.6 s", verdict)
        self.assertTrue(verdict.only_late)

    def test_a_slow_start_is_late(self):
        self.says("the first command ran", judge(record(agent_started=90.0)))

    def test_a_green_light_on_a_dead_link_is_noticed(self):
        verdict = judge(record(runs=[], shows=["stream"]))
        self.says("online on a stream by which nothing arrived", verdict)

    def test_a_stream_that_died_may_be_shown_for_a_while_and_no_longer(self):
        dead = record(**{"class": "silent-death"})
        dead["runs"] = [[n, 100.1 + n] for n in range(7)] + [[n, 127.0] for n in range(7, 24)]
        self.assertNotIn("online", " ".join(judge(dead).faults))
        dead["samples"] += [[126.5 + n / 4, True, "stream", "then"] for n in range(20)]
        dead["runs"] = [[n, at if at < 120 else 140.0] for n, at in dead["runs"]]
        self.says("while a command waited", judge(dead))

    def test_the_wrong_carrier_in_the_end_is_noticed(self):
        self.says("in the end the hub shows stream, not poll", judge(record(shows=["poll"])))

    def test_what_waits_for_the_end_of_an_outage_is_late_from_then_on(self):
        out = record(**{"class": "outage"}, dropped=107.0, healed=132.0, shows=["none"])
        out["runs"] = [[n, 100.1 + n] for n in range(7)] + [[n, 140.0] for n in range(7, 24)]
        out["samples"] = [[100 + n / 4, n < 100, "stream" if n < 100 else None, "then"] for n in range(140)]
        verdict = judge(out)
        self.assertTrue(verdict.green, verdict)
        self.assertEqual(verdict.measures["worst_s"], 8.0)

    def test_a_stream_that_outlives_an_outage_may_be_shown_at_once(self):
        out = record(**{"class": "outage"}, dropped=107.0, healed=132.0, shows=["none"])
        out["runs"] = [[n, 100.1 + n] for n in range(7)] + [[n, 134.0] for n in range(7, 24)]
        out["samples"] = [[100 + n / 4, True, "stream", "then"] for n in range(100)]
        out["samples"] += [[125 + n / 4, n > 28, "stream" if n > 28 else None, "then"] for n in range(60)]
        self.assertTrue(judge(out).green, judge(out))
        out["samples"] = [[100 + n / 4, True, "stream", "then"] for n in range(160)]
        self.says("while a command waited for 25 s", judge(out))

    def test_behind_a_portal_nothing_runs_and_the_log_names_it(self):
        portal = record(**{"class": "captive"}, runs=[], samples=[], shows=["none"], log=["a captive portal answers"])
        self.assertTrue(judge(portal).green)
        self.says("does not say", judge(portal | {"log": []}))
        self.says("1 commands ran", judge(portal | {"runs": [[0, 101.0]]}))


if __name__ == "__main__":
    unittest.main()

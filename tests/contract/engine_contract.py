"""What every host of a policy must do, as scenarios that any host can be put through.

A scenario asserts what was decided and what came of it, never how long it took: one host runs in
virtual time, the other one on a real clock. So promises are either far away or out of reach.
"""

from __future__ import annotations

import pytest
from tests.contract.hosts import (
    BOOK,
    ENGINE_BUDGET,
    MAX_SEQS,
    TOKEN_BUDGET,
    Busy,
    HostMaker,
    Hurried,
    Niyama,
    Scripted,
    assert_empty,
    run,
)


class EngineContract:
    """The scenarios; a subclass gives the fixture `make_host`."""

    def test_all_requests_finish_in_full(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        wanted = {f"r{number}": 1 + 5 * number for number in range(8)}
        for name, num_tokens in wanted.items():
            host.submit(name, 90, num_tokens)
        run(host)
        assert {name: host.num_output_tokens(name) for name in wanted} == wanted
        assert_empty(host)

    def test_first_tokens_come_in_the_planned_order(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.policy.order = ["d", "b", "a", "c"]
        for name in "abcd":
            host.submit(name, 400, 3)
        run(host)
        assert list(host.first_tokens()) == ["d", "b", "a", "c"]

    def test_plans_are_realised_as_they_are(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        for number in range(6):
            host.submit(f"r{number}", 50 + 100 * number, 20)
        run(host)
        chunks = [[tuple(c) for c in plan.chunks] for plan in host.policy.plans]
        launched = [
            [(p.request_id, p.num_tokens) for p in launch.prefills] for launch in host.policy.launches
        ]
        assert [c for c in chunks if c] == [c for c in launched if c]
        assert not any(launch.stalled or launch.preempted for launch in host.policy.launches)
        shapes = [launch.shape for launch in host.policy.launches]
        assert max(s.num_prefill_tokens + s.num_decode_tokens for s in shapes) == TOKEN_BUDGET

    def test_held_prefill_keeps_its_kv_and_resumes(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("long", 600, 4)
        host.step()
        assert host.num_computed_tokens("long") == TOKEN_BUDGET
        host.policy.held = {"long"}
        host.submit("short", 40, 12)
        run(host, until=lambda: host.num_output_tokens("short") == 12)
        assert host.num_computed_tokens("long") == TOKEN_BUDGET
        assert host.num_output_tokens("long") == 0
        host.policy.held = set()
        run(host)
        assert host.num_output_tokens("long") == 4
        computed = sum(p.num_tokens for launch in host.policy.launches for p in launch.prefills)
        assert computed == 640
        assert_empty(host)

    def test_urgent_request_overtakes_a_started_prefill(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("early", 1200, 2)
        host.step()
        host.policy.order = ["urgent", "early"]
        host.submit("urgent", 300, 2)
        run(host)
        assert list(host.first_tokens()) == ["urgent", "early"]

    def test_no_more_run_than_there_are_seats(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        names = [f"r{number}" for number in range(MAX_SEQS + 8)]
        for name in names:
            host.submit(name, 8, 20)
        run(host)
        shapes = [launch.shape for launch in host.policy.launches]
        assert max(shape.num_decode_tokens for shape in shapes) == MAX_SEQS
        assert {host.num_output_tokens(name) for name in names} == {20}
        assert_empty(host)

    def test_same_prompt_again_is_computed_but_for_its_cached_blocks(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("first", 300, 4)
        run(host)
        host.submit("second", 300, 4, again="first")
        run(host)
        # Whole blocks, and at least one token: 288 are cached, with blocks of 16 as of 32.
        assert host.policy.num_prefilled("first") == 300
        assert host.policy.num_prefilled("second") == 12
        planned = [chunk.num_tokens for plan in host.policy.plans for chunk in plan.chunks]
        assert planned == [256, 44, 12]
        assert host.num_output_tokens("second") == 4
        assert_empty(host)

    # Aborts --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("num_steps", [0, 1, 6], ids=["waiting", "prefilling", "decoding"])
    def test_aborted_request_frees_everything(self, make_host: HostMaker, num_steps: int) -> None:
        host = make_host(Scripted)
        host.policy.order = ["gone"]
        host.submit("gone", 500, 100)
        host.submit("stays", 60, 10)
        for _ in range(num_steps):
            host.step()
        assert (host.num_output_tokens("gone") > 0) == (num_steps == 6)
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("stays") == 10
        assert host.num_output_tokens("gone") < 100
        assert_empty(host)

    def test_aborted_held_prefill_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("gone", 600, 4)
        host.step()
        host.policy.held = {"gone"}
        host.submit("stays", 40, 12)
        host.step()
        host.step()
        assert host.policy.names(host.policy.plans[-1].held) == ["gone"]
        assert host.num_computed_tokens("gone") == TOKEN_BUDGET
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("gone") == 0
        assert host.num_output_tokens("stays") == 12
        assert_empty(host)

    def test_aborted_preempted_request_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            host.submit(name, 60, 90)
        run(host, until=lambda: bool(host.policy.preempted))
        gone = host.policy.preempted[-1]
        assert 0 < host.num_output_tokens(gone) < 90
        host.abort(gone)
        run(host)
        assert {host.num_output_tokens(name) for name in names if name != gone} == {90}
        assert host.num_output_tokens(gone) < 90
        assert_empty(host)

    def test_aborted_relegated_request_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        host.submit("stays", 900, 5)
        host.submit("gone", 900, 5, "lost")
        host.step()
        assert host.policy.names(host.policy.plans[0].relegated) == ["gone"]
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("stays") == 5
        assert host.num_output_tokens("gone") == 0
        assert_empty(host)

    def test_everybody_aborted_leaves_an_engine_that_serves(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        for number in range(12):
            host.submit(f"r{number}", 200, 50, ("patient", "tight", "lost")[number % 3])
        for _ in range(5):
            host.step()
        for number in range(12):
            host.abort(f"r{number}")
        run(host)
        assert_empty(host)
        host.submit("after", 30, 5)
        run(host)
        assert host.num_output_tokens("after") == 5
        assert_empty(host)

    # Memory --------------------------------------------------------------------------------------

    def test_memory_pressure_preempts_and_loses_nobody(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            host.submit(name, 60, 90)
        run(host)
        assert {host.num_output_tokens(name) for name in names} == {90}
        assert host.policy.preempted
        assert_empty(host)

    def test_memory_is_taken_from_the_less_important(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = {f"{kind}{n}": kind for kind, count in (("minor", 6), ("major", 2)) for n in range(count)}
        host.policy.order = ["major0", "major1"]
        for name, kind in names.items():
            host.submit(name, 60, 90, kind)
        run(host)
        assert host.policy.preempted
        assert not {name for name in host.policy.preempted if names[name] == "major"}
        assert {host.num_output_tokens(name) for name in names} == {90}
        assert_empty(host)

    def test_prefills_too_large_to_run_together_all_finish(self, make_host: HostMaker) -> None:
        host = make_host(Niyama, 1024)
        for number in range(4):
            host.submit(f"r{number}", 700, 12)
        run(host)
        assert {host.num_output_tokens(f"r{number}") for number in range(4)} == {12}
        assert_empty(host)

    # The policy itself ---------------------------------------------------------------------------

    def test_hopeless_requests_wait_for_the_others_and_are_served(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        submitted = [("lost-minor", 400), ("lost-major", 400), ("patient", 400)]
        for kind, num_tokens in submitted:
            host.submit(kind, num_tokens, 3, kind)
        run(host)
        relegated = {name for plan in host.policy.plans for name in host.policy.names(plan.relegated)}
        assert relegated == {"lost-minor", "lost-major"}
        assert list(host.first_tokens()) == ["patient", "lost-major", "lost-minor"]
        assert [host.num_output_tokens(kind) for kind, _ in submitted] == [3, 3, 3]
        assert_empty(host)

    def test_earlier_deadline_overtakes_a_started_prefill_that_keeps_its_kv(
        self, make_host: HostMaker
    ) -> None:
        host = make_host(Hurried)
        host.submit("early", 1500, 3)
        host.step()
        assert host.num_computed_tokens("early") == ENGINE_BUDGET
        host.submit("urgent", 700, 3, "sooner")
        host.step()
        assert host.num_computed_tokens("early") == ENGINE_BUDGET
        assert host.policy.names(host.policy.plans[-1].held) == ["early"]
        run(host)
        assert list(host.first_tokens()) == ["urgent", "early"]
        assert [host.policy.num_prefilled(name) for name in ("early", "urgent")] == [1500, 700]
        assert not host.policy.preempted
        assert_empty(host)

    def test_chunk_is_what_the_slack_of_the_decodes_allows(self, make_host: HostMaker) -> None:
        largest: dict[str, int] = {}
        for talker in ("patient", "tight"):
            host = make_host(Hurried)
            host.submit("talker", 20, 6, talker)
            host.step()
            host.submit("reader", 1500, 2)
            run(host)
            beside = [s for s in (launch.shape for launch in host.policy.launches) if s.num_decode_tokens]
            largest[talker] = max(shape.num_prefill_tokens for shape in beside)
            assert [host.num_output_tokens(name) for name in ("talker", "reader")] == [6, 2]
            assert_empty(host)
        # A pace that the engine cannot keep is stretched, so some prefill runs beside the tight one.
        assert largest["patient"] == ENGINE_BUDGET - 1
        assert largest["tight"] < ENGINE_BUDGET // 2

    def test_reader_begins_at_once_where_there_is_time(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        host.submit("batch", 1500, 2, "major")
        host.submit("reader", 300, 3, "reader")
        run(host)
        assert list(host.first_tokens()) == ["reader", "batch"]

    def test_reader_waits_before_its_last_prompt_token_while_others_need_the_time(
        self, make_host: HostMaker
    ) -> None:
        host = make_host(Busy)
        host.submit("batch", 1500, 2, "major")
        host.submit("reader", 300, 3, "reader")
        run(host, until=lambda: host.num_output_tokens("batch") > 0)
        assert host.num_computed_tokens("reader") == 299
        assert host.num_output_tokens("reader") == 0
        run(host)
        assert [host.policy.num_prefilled(name) for name in ("batch", "reader")] == [1500, 300]
        assert [host.num_output_tokens(name) for name in ("batch", "reader")] == [2, 3]
        assert not host.policy.preempted
        assert_empty(host)

    def test_mixed_requests_all_finish_in_full_under_memory_pressure(self, make_host: HostMaker) -> None:
        host = make_host(Niyama, 1024)
        kinds = list(BOOK["classes"])
        wanted = {f"r{number}": 10 + 7 * number for number in range(16)}
        for number, (name, num_tokens) in enumerate(wanted.items()):
            host.submit(name, 20 + 40 * (number % 5), num_tokens, kinds[number % len(kinds)])
            host.step()
        run(host)
        assert {name: host.num_output_tokens(name) for name in wanted} == wanted
        assert host.policy.preempted
        assert_empty(host)

    def test_idle_engine_serves_again(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        assert not host.is_busy()
        for name in ("first", "second"):
            host.submit(name, 30, 5)
            run(host)
            assert host.num_output_tokens(name) == 5
            assert_empty(host)

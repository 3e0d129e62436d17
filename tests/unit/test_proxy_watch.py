# SPDX-License-Identifier: Apache-2.0
"""What is counted of each app, and what is logged of each request."""

from __future__ import annotations

import re

from flyebpf.proxy import accesslog, appstats
from flyebpf.proxy.appstats import AppStats, Shown, parse
from flyebpf.proxy.chains import all_listeners
from flyebpf.proxy.listeners import listener
from flyebpf.proxymetrics import apps
from tests.unit.test_proxy_metrics import samples

TEXT = """\
cluster.app/web.upstream_cx_active: 1
cluster.app/web.upstream_cx_total: 3
cluster.app/web.upstream_rq_2xx: 7
cluster.app/web.upstream_rq_5xx: 2
cluster.app/web.upstream_rq_active: 4
cluster.app/web.upstream_rq_pending_active: 5
cluster.app/web.upstream_rq_time: B5(1,2) B10(0,3) B86400000(1,9)
cluster.app/my-app.upstream_rq_time: No recorded values
server.live: 1
"""


def stats(requests: int, active: int = 0) -> AppStats:
    return AppStats({"2xx": requests}, active, 0, requests, 1, {5: requests}, requests)


def test_what_envoy_says_is_read() -> None:
    assert parse(TEXT) == {
        "web": AppStats({"2xx": 7, "5xx": 2}, 4, 5, 3, 1, {5: 2, 10: 3}, 9),
        "my-app": AppStats(),
    }


def test_what_is_kept_is_what_is_read() -> None:
    pattern = re.compile(appstats.PATTERN)
    for line in TEXT.splitlines()[:-1]:
        assert pattern.match(line.partition(":")[0])
    for other in ("app/web.upstream_rq_total", "flyebpf.upstream_cx_total",
                  "app/web.upstream_rq_200", "app/a.b.upstream_rq_2xx"):  # fmt: skip
        assert not pattern.match(f"cluster.{other}")


def test_first_come_have_metrics_of_their_own() -> None:
    shown = Shown(2)
    own, rest = shown.split({"a": stats(1), "b": stats(2)})
    assert list(own) == ["a", "b"]
    assert rest.codes.get("2xx", 0) == 0
    own, rest = shown.split({"a": stats(1), "b": stats(2), "c": stats(5, 1), "d": stats(7, 2)})
    assert list(own) == ["a", "b"]
    assert (rest.codes["2xx"], rest.active, rest.timed, rest.buckets) == (12, 3, 12, {5: 12})


def test_the_rest_never_shrinks() -> None:
    """Neither by an app that goes, nor by an Envoy that begins anew."""
    shown = Shown(0)
    assert shown.split({"a": stats(10), "b": stats(5)})[1].codes["2xx"] == 15
    assert shown.split({"b": stats(6)})[1].codes["2xx"] == 16
    assert shown.split({"b": stats(2)})[1].codes["2xx"] == 18
    assert shown.split({})[1].codes["2xx"] == 18
    assert shown.split({"b": stats(3)})[1].codes["2xx"] == 21


def test_a_place_that_is_free_goes_to_the_next_new_app() -> None:
    """Not to one that has been counted with the rest, which would shrink."""
    shown = Shown(1)
    shown.split({"a": stats(1), "b": stats(1)})
    own, rest = shown.split({"b": stats(2), "c": stats(1)})
    assert list(own) == ["c"]
    assert rest.codes["2xx"] == 2


def test_metrics_of_apps() -> None:
    found = samples(list(apps({"web": parse(TEXT)["web"], "_rest": AppStats()})))
    assert found["flyebpf_app_requests_total web 2xx"] == 7
    assert found["flyebpf_app_requests_total _rest 5xx"] == 0
    assert found["flyebpf_app_active_requests web"] == 4
    assert found["flyebpf_app_queued_requests web"] == 5
    assert found["flyebpf_app_connections_total web"] == 3
    assert found["flyebpf_app_active_connections web"] == 1
    assert found["flyebpf_app_request_seconds_bucket web 0.01"] == 3
    assert found["flyebpf_app_request_seconds_bucket web +Inf"] == 9


def test_all_listeners_log_or_none_does() -> None:
    for what in all_listeners():
        made = listener(what)
        assert accesslog.logged(made, "") == made
        last = accesslog.logged(made, "/var/log/x")["filter_chains"][-1]["filters"][-1]
        (log,) = last["typed_config"]["access_log"]
        assert log["typed_config"]["path"] == "/var/log/x"
        fields = log["typed_config"]["log_format"]["json_format"]
        assert ("status" in fields) == (what.chain in ("http", "https"))

# SPDX-License-Identifier: Apache-2.0
"""The control plane without gRPC: requests of Envoy's in, responses out."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from flyebpf.proxy.ads import CDS, EDS, RDS, SCOPES, SDS, Snapshot, Stream
from flyebpf.proxy.resources import Type


def vhost(name: str, *domains: str) -> dict[str, object]:
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    return {"name": name, "domains": list(domains), "routes": routes}


def certificate(*hosts: str, chain: str = "C") -> dict[str, object]:
    secret = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": "K"},
        }
    }
    return {"hosts": list(hosts), "secret": secret}


@pytest.fixture
def snapshot() -> Snapshot:
    made = Snapshot()
    for name in ("a", "b"):
        made.put(Type.CLUSTER, name, {"name": name})
        made.put(Type.ENDPOINTS, name, {"cluster_name": name})
    made.put(Type.ROUTES, "own-http", {"name": "own-http"})
    made.put(Type.VHOST, "own-http|web/80", vhost("web/80", "203.0.113.1:80"))
    made.put(Type.CERTIFICATE, "web/a", certificate("a.example.com", "*.b.example.com"))
    made.join()
    made.take_changes()
    return made


def ask(url: str, *names: str, has: dict[str, str] | None = None) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(
        type_url=url, resource_names_subscribe=names, initial_resource_versions=has or {}
    )


def sent(responses: list[DeltaDiscoveryResponse]) -> set[str]:
    return {resource.name for response in responses for resource in response.resources}


def removed(responses: list[DeltaDiscoveryResponse]) -> set[str]:
    return {name for response in responses for name in response.removed_resources}


def push(snapshot: Snapshot, stream: Stream) -> list[DeltaDiscoveryResponse]:
    snapshot.join()
    snapshot.refresh_secrets(stream.secrets())
    return stream.changed(snapshot.take_changes())


def test_all_clusters_and_the_endpoints_asked_for(snapshot: Snapshot) -> None:
    stream = Stream(snapshot)
    assert sent(stream.request(ask(CDS))) == {"a", "b"}
    assert sent(stream.request(ask(EDS, "a"))) == {"a"}
    snapshot.put(Type.ENDPOINTS, "b", {"cluster_name": "b", "policy": {}})
    snapshot.put(Type.CLUSTER, "b", {"name": "b", "connect_timeout": "3s"})
    responses = push(snapshot, stream)
    assert [response.type_url for response in responses] == [CDS]
    assert sent(responses) == {"b"}


def test_a_changed_cluster_gets_its_endpoints_again(snapshot: Snapshot) -> None:
    """Envoy makes it anew, and waits for them without asking."""
    stream = Stream(snapshot)
    stream.request(ask(CDS))
    stream.request(ask(EDS, "a", "b"))
    snapshot.put(Type.CLUSTER, "b", {"name": "b", "connect_timeout": "3s"})
    responses = push(snapshot, stream)
    assert [response.type_url for response in responses] == [CDS, EDS]
    assert [sent([response]) for response in responses] == [{"b"}, {"b"}]
    assert push(snapshot, stream) == []


def test_that_there_is_nothing_is_an_answer() -> None:
    """Envoy waits for one before it serves."""
    (response,) = Stream(Snapshot()).request(ask(CDS))
    assert (len(response.resources), response.nonce) == (0, "1")


def test_only_what_is_new_to_a_stream_that_comes_back(snapshot: Snapshot) -> None:
    first = Stream(snapshot)
    (response,) = first.request(ask(CDS))
    has = {resource.name: resource.version for resource in response.resources}
    snapshot.put(Type.CLUSTER, "b", {"name": "b", "connect_timeout": "3s"})
    snapshot.remove(Type.CLUSTER, "a")
    responses = Stream(snapshot).request(ask(CDS, has=has))
    assert (sent(responses), removed(responses)) == ({"b"}, {"a"})
    again = {r.name: r.version for one in responses for r in one.resources}
    assert sent(Stream(snapshot).request(ask(CDS, has=again))) == set()


def test_nothing_is_sent_twice(snapshot: Snapshot) -> None:
    stream = Stream(snapshot)
    stream.request(ask(CDS))
    snapshot.put(Type.CLUSTER, "a", {"name": "a"})
    assert push(snapshot, stream) == []


def hosts(response: DeltaDiscoveryResponse) -> dict[str, list[str]]:
    """Of route configurations: the domains of all their virtual hosts."""
    found = {}
    for resource in response.resources:
        routes = RouteConfiguration.FromString(resource.resource.value)
        assert routes.name == resource.name
        found[routes.name] = [domain for host in routes.virtual_hosts for domain in host.domains]
    return found


def test_an_app_changes_a_part_of_its_own(snapshot: Snapshot) -> None:
    stream = Stream(snapshot)
    stream.request(ask(RDS, "own-http/web/80", "own-http/db/80"))
    stream.request(ask(SCOPES))
    six = ("203.0.113.2:80", "[2001:db8::1]:80")
    snapshot.put(Type.VHOST, "own-http|db/80", vhost("db/80", *six))
    routes, scopes = push(snapshot, stream)
    assert hosts(routes) == {"own-http/db/80": list(six)}
    assert sent([scopes]) == {f"own-http/{address}" for address in six}
    snapshot.remove(Type.VHOST, "own-http|db/80")
    routes, scopes = push(snapshot, stream)
    assert removed([routes]) == {"own-http/db/80"}
    assert removed([scopes]) == {f"own-http/{address}" for address in six}


def test_over_tls_a_part_is_of_an_address(snapshot: Snapshot) -> None:
    """Whatever the server name."""
    snapshot.put(Type.ROUTES, "own-https", {"name": "own-https"})
    domains = ("/203.0.113.1:443", "a.example.com/203.0.113.1:443")
    snapshot.put(Type.VHOST, "own-https|web/443", vhost("web/443", *domains))
    snapshot.join()
    stream = Stream(snapshot)
    found = sent(stream.request(ask(SCOPES)))
    assert found == {"own-http/203.0.113.1:80", "own-https/203.0.113.1:443"}


def test_shared_addresses_by_first_letter(snapshot: Snapshot) -> None:
    """In either case; a wildcard is in all parts."""
    snapshot.put(Type.VHOST, "shared-http|web/80", vhost("web/80", "web.fly.test"))
    snapshot.put(Type.ROUTES, "shared-http", {"name": "shared-http"})
    snapshot.join()
    stream = Stream(snapshot)
    assert {"shared-http/w", "shared-http/W", "shared-http/0"} < sent(stream.request(ask(SCOPES)))
    names = [f"shared-http/{letter}" for letter in "adw"]
    (response,) = stream.request(ask(RDS, *names))
    assert hosts(response) == {names[0]: [], names[1]: [], names[2]: ["web.fly.test"]}
    snapshot.put(Type.VHOST, "shared-http|db/80", vhost("db/80", "db.fly.test", "*.example.com"))
    (response,) = push(snapshot, stream)
    both = ["db.fly.test", "*.example.com"]
    assert hosts(response) == {names[0]: both, names[1]: both, names[2]: ["web.fly.test", *both]}


def test_a_domain_has_one_virtual_host(snapshot: Snapshot) -> None:
    """With one in two Envoy would refuse the routes of all."""
    with pytest.raises(ValueError, match=r"203\.0\.113\.1:80"):
        snapshot.put(Type.VHOST, "own-http|x/80", vhost("x/80", "203.0.113.1:80", "203.0.113.9:80"))
    stream = Stream(snapshot)
    snapshot.join()
    (response,) = stream.request(ask(RDS, "own-http/web/80", "own-http/x/80"))
    assert hosts(response) == {
        "own-http/web/80": ["203.0.113.1:80"],
        "own-http/x/80": ["203.0.113.9:80"],
    }


def test_a_domain_changes_hands(snapshot: Snapshot) -> None:
    snapshot.remove(Type.VHOST, "own-http|web/80")
    snapshot.put(Type.VHOST, "own-http|x/80", vhost("x/80", "203.0.113.1:80"))
    snapshot.put(Type.VHOST, "own-http|x/80", vhost("x/80", "203.0.113.2:80"))
    snapshot.put(Type.VHOST, "own-http|web/80", vhost("web/80", "203.0.113.1:80"))


@pytest.mark.parametrize(
    "name", ["a.example.com", "A.Example.com", "x.b.example.com", "y.b.example.com"]
)
def test_certificates_by_server_name(snapshot: Snapshot, name: str) -> None:
    (response,) = Stream(snapshot).request(ask(SDS, name))
    found = Secret.FromString(response.resources[0].resource.value)
    assert found.name == name
    assert found.tls_certificate.certificate_chain.inline_string == "C"


@pytest.mark.parametrize("name", ["b.example.com", "x.y.b.example.com", "example.com", "-", ""])
def test_names_without_a_certificate(snapshot: Snapshot, name: str) -> None:
    """Said at once: the client's handshake fails, and does not wait."""
    responses = Stream(snapshot).request(ask(SDS, name))
    assert (sent(responses), removed(responses)) == (set(), {name})


def test_a_certificate_is_renewed_and_removed(snapshot: Snapshot) -> None:
    stream = Stream(snapshot)
    stream.request(ask(SDS, "a.example.com", "new.example.com"))
    snapshot.put(Type.CERTIFICATE, "web/a", certificate("a.example.com", chain="D"))
    assert sent(push(snapshot, stream)) == {"a.example.com"}
    snapshot.put(Type.CERTIFICATE, "web/new", certificate("new.example.com"))
    assert sent(push(snapshot, stream)) == {"new.example.com"}
    snapshot.remove(Type.CERTIFICATE, "web/a")
    assert removed(push(snapshot, stream)) == {"a.example.com"}


def test_what_envoy_refuses_is_known(snapshot: Snapshot) -> None:
    stream = Stream(snapshot)
    stream.request(ask(CDS))
    refusal = DeltaDiscoveryRequest(type_url=CDS, response_nonce="1")
    refusal.error_detail.code, refusal.error_detail.message = 13, "no such filter"
    assert stream.request(refusal) == []
    assert stream.nack == "no such filter"
    stream.request(DeltaDiscoveryRequest(type_url=EDS, response_nonce="2"))
    assert stream.nack == "no such filter"
    stream.request(DeltaDiscoveryRequest(type_url=CDS, response_nonce="3"))
    assert stream.nack == ""


def test_large_answers_come_in_parts() -> None:
    snapshot = Snapshot()
    for number in range(6):
        body = {"hosts": [f"{number}.example.com"]}
        secret = certificate(f"{number}.example.com", chain="x" * (1 << 20))["secret"]
        snapshot.put(Type.CERTIFICATE, str(number), {**body, "secret": secret})
    wanted = [f"{number}.example.com" for number in range(6)]
    responses = Stream(snapshot).request(ask(SDS, *wanted))
    assert sent(responses) == set(wanted)
    assert [response.nonce for response in responses] == ["1", "2", "3"]

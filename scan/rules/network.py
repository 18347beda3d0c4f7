"""Who can reach what: rules over security groups, subnets, routes, endpoints and listeners.

The only thing that anybody may reach is port 443 of a load balancer that speaks TLS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

from scan.cloudformation import Resource, Variant, each, every, is_open
from scan.rules.access import condition_of, is_of_aws, statements

TYPES: Final = {
    "AWS::EC2::FlowLog", "AWS::EC2::InternetGateway", "AWS::EC2::Route", "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupEgress", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::VPC", "AWS::EC2::VPCEndpoint", "AWS::EC2::VPCGatewayAttachment",
    "AWS::ElasticLoadBalancingV2::Listener", "AWS::ElasticLoadBalancingV2::LoadBalancer",
    "AWS::ElasticLoadBalancingV2::TargetGroup",
}  # fmt: skip
#: More public addresses than this, all rules of a group together, are "the world": a /16.
_MANY: Final = 2**16
_PRIVATE: Final = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10", "::1/128")
]
_TLS: Final = {
    "ELBSecurityPolicy-TLS13-1-2-2021-06",
    "ELBSecurityPolicy-TLS13-1-2-Res-2021-06",
    "ELBSecurityPolicy-TLS13-1-3-2021-06",
}
_WAYS_OUT: Final = (
    "CarrierGatewayId", "EgressOnlyInternetGatewayId", "GatewayId", "InstanceId", "LocalGatewayId", "NatGatewayId",
    "NetworkInterfaceId", "TransitGatewayId", "VpcPeeringConnectionId",
)  # fmt: skip
Found = Iterator[tuple[str, str, str]]


def judge(variant: Variant) -> Found:
    """Yield resource, rule and message of everything that is open."""
    yield from _groups(variant)
    yield from _subnets(variant)
    yield from _endpoints(variant)
    yield from _balancers(variant)
    logged = {
        str(log.properties.get("ResourceId"))
        for log in variant.of("AWS::EC2::FlowLog")
        if log.properties.get("TrafficType") == "ALL"
    }
    for network in variant.of("AWS::EC2::VPC"):
        if f"${{{network.name}}}" not in logged:
            yield (
                network.name,
                "no-flow-log",
                "nobody could see who spoke to whom; expected a FlowLog of all its traffic",
            )


# --- Security groups --------------------------------------------------------------------------------------------------------


def _groups(variant: Variant) -> Found:
    ours = {f"${{{group.name}}}": group.name for group in variant.of("AWS::EC2::SecurityGroup")}
    ours |= {f"${{{group.name}.GroupId}}": group.name for group in variant.of("AWS::EC2::SecurityGroup")}
    public = _of_balancers(variant)
    nodes = {
        str(option)
        for cluster in variant.of("AWS::EMR::Cluster")
        for key in ("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup")
        for option in each((cluster.properties.get("Instances") or {}).get(key))
    }
    for side in ("Ingress", "Egress"):
        rules = [
            (group.name, f"${{{group.name}}}", rule)
            for group in variant.of("AWS::EC2::SecurityGroup")
            for rule in every(group.properties.get(f"SecurityGroup{side}") or [])
        ]
        rules += [
            (alone.name, str(group), alone.properties)
            for alone in variant.of(f"AWS::EC2::SecurityGroup{side}")
            for group in each(alone.properties.get("GroupId"))
        ]
        for name, owner, rule in rules:
            if not isinstance(rule, dict):
                yield name, "not-judged", f"a rule that is not a mapping: {rule!r}"
            elif side == "Ingress":
                yield from _ingress(name, owner, rule, ours, public=owner in public, nodes=nodes)
            else:
                yield from _egress(name, rule, ours, nodes=nodes, group=owner)
        if side == "Ingress":
            yield from _many(rules, public)
    for group in variant.of("AWS::EC2::SecurityGroup"):
        if not group.properties.get("SecurityGroupEgress"):
            yield group.name, "open-way-out", "no rule for going out means any; expected SecurityGroupEgress"


def _ingress(
    name: str, group: str, rule: dict[str, Any], ours: dict[str, str], *, public: bool, nodes: set[str]
) -> Found:
    sources = [(key, source) for key in ("CidrIp", "CidrIpv6") for source in every(rule.get(key) or [])]
    among_nodes = group in nodes and all(
        str(source) in nodes for source in every(rule.get("SourceSecurityGroupId") or ["?"])
    )
    for protocol, begin, end in _ports(rule):
        if protocol not in {"tcp", "udp", "icmp", "icmpv6"}:
            yield name, "every-protocol", f"protocol {protocol} lets in more than one service; expected tcp and a port"
        elif begin != end and not among_nodes:
            yield name, "port-range", f"ports {begin} to {end}; expected one port"
        if begin <= 22 <= end and protocol != "udp" and not among_nodes:
            yield name, "ssh", "port 22; expected none: Session Manager needs no port"
        for _, source in sources:
            network = _network(source)
            if network is None:
                yield name, "source-unknown", f"'{source}' cannot be told from the template; expected addresses"
            elif _wide(network) and not (public and (protocol, begin, end) == ("tcp", 443, 443)):
                yield (
                    name,
                    "open-to-the-world",
                    f"{source} may reach {protocol} {begin} to {end}; expected nobody from outside",
                )
            elif not _is_private(network) and not (public and begin == end == 443):
                yield (
                    name,
                    "open-to-outside",
                    f"{source} may reach {protocol} {begin} to {end}; expected a group of this template",
                )
    for key in ("SourcePrefixListId", "SourceSecurityGroupName", "SourceSecurityGroupOwnerId"):
        if rule.get(key):
            yield (
                name,
                "source-unknown",
                f"{key} {rule[key]!r} lets in everyone on that list; expected a group of this template",
            )
    for source in every(rule.get("SourceSecurityGroupId") or []):
        if str(source) not in ours:
            yield name, "source-unknown", f"group '{source}' is not of this template; expected one that is"
    if not sources and not any(key.startswith("Source") for key in rule):
        yield name, "source-unknown", "no source; expected a group of this template"


def _egress(name: str, rule: dict[str, Any], ours: dict[str, str], *, nodes: set[str], group: str) -> Found:
    among_nodes = group in nodes and all(
        str(far) in nodes for far in every(rule.get("DestinationSecurityGroupId") or ["?"])
    )
    nowhere = every(rule.get("CidrIp") or []) == ["127.0.0.1/32"]
    for protocol, begin, end in _ports(rule):
        if not nowhere and not among_nodes and (protocol not in {"tcp", "udp"} or begin != end):
            yield name, "open-way-out", f"{protocol} {begin} to {end} on the way out; expected one port"
    for target in [*every(rule.get("CidrIp") or []), *every(rule.get("CidrIpv6") or [])]:
        network = _network(target)
        if network is None or not _is_private(network):
            yield name, "open-way-out", f"the way out to {target}; expected a group, a list of AWS or nothing"
    for target in every(rule.get("DestinationSecurityGroupId") or []):
        if str(target) not in ours:
            yield name, "open-way-out", f"the way out to group '{target}', which is not of this template"


def _many(rules: list[tuple[str, str, Any]], public: set[str]) -> Found:
    """Find a world that was cut into pieces."""
    pieces: dict[str, list[Any]] = {}
    where: dict[str, str] = {}
    for name, group, rule in rules:
        if not isinstance(rule, dict) or group in public:
            continue
        for source in every(rule.get("CidrIp") or []):
            network = _network(source)
            if isinstance(network, ipaddress.IPv4Network) and not _is_private(network):
                pieces.setdefault(group, []).append(network)
                where[group] = name
    for group, networks in pieces.items():
        total = sum(network.num_addresses for network in ipaddress.collapse_addresses(networks))
        if total > _MANY:
            yield where[group], "open-to-the-world", f"{total:,} addresses in pieces; expected nobody from outside"


def _ports(rule: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield protocol and ports of a rule; what cannot be told is taken for everything."""
    numbers = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
    for given in each(rule.get("IpProtocol", "-1")):
        protocol = str(given).lower()
        protocol = numbers.get(protocol, protocol)
        if protocol in {"icmp", "icmpv6"}:
            yield protocol, 0, 0
            continue
        for begin in each(rule.get("FromPort", 0)):
            for end in each(rule.get("ToPort", 65535)):
                first, last = _number(begin, 0), _number(end, 65535)
                yield (protocol, 0, 65535) if first < 0 else (protocol, first, last)


def _number(value: Any, unknown: int) -> int:
    try:
        return int(float(str(value).strip()))
    except ValueError:
        return unknown


def _network(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(value).strip(), strict=False)
    except ValueError:
        return None


def _is_private(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return any(network.version == inside.version and network.subnet_of(inside) for inside in _PRIVATE)  # type: ignore[arg-type]


def _wide(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return not _is_private(network) and network.prefixlen < (16 if network.version == 4 else 48)


# --- Subnets, routes, endpoints ---------------------------------------------------------------------------------------------


def _subnets(variant: Variant) -> Found:
    outside = {
        str(option)
        for route in variant.of("AWS::EC2::Route")
        if any(route.properties.get(key) for key in _WAYS_OUT)
        for option in each(route.properties.get("RouteTableId"))
    }
    edge = {
        str(option)
        for link in variant.of("AWS::EC2::SubnetRouteTableAssociation")
        if any(str(table) in outside for table in each(link.properties.get("RouteTableId")))
        for option in each(link.properties.get("SubnetId"))
    }
    known = {f"${{{subnet.name}}}" for subnet in variant.of("AWS::EC2::Subnet")}
    for subnet in variant.of("AWS::EC2::Subnet"):
        for given in each(subnet.properties.get("MapPublicIpOnLaunch", False)):
            if str(given).lower() != "false":
                yield (
                    subnet.name,
                    "public-address",
                    "machines here get a public address; expected MapPublicIpOnLaunch: false",
                )
        if subnet.properties.get("AssignIpv6AddressOnCreation") or subnet.properties.get("Ipv6CidrBlock"):
            yield subnet.name, "public-address", "IPv6 addresses are public ones; expected none"
    for resource, subnets in _placed(variant):
        for name in subnets:
            if str(name) in edge:
                yield (
                    resource.name,
                    "public-subnet",
                    f"stands in {name}, which has a way to the internet; expected one without",
                )
            elif str(name) not in known:
                yield resource.name, "public-subnet", f"stands in '{name}', which is not of this template"


def _placed(variant: Variant) -> Iterator[tuple[Resource, list[Any]]]:
    """Yield what must not stand where the internet can be reached, with its subnets. Load balancers alone may."""
    for resource in variant.resources.values():
        properties = resource.properties
        if resource.type == "AWS::EMR::Cluster":
            instances = properties.get("Instances") or {}
            yield (
                resource,
                [*every(instances.get("Ec2SubnetIds") or []), *every(instances.get("Ec2SubnetId") or [])] or ["none"],
            )
        elif resource.type == "AWS::EMRServerless::Application":
            yield resource, every((properties.get("NetworkConfiguration") or {}).get("SubnetIds") or ["none"])
        elif resource.type in {"AWS::RDS::DBSubnetGroup", "AWS::EC2::VPCEndpoint"}:
            yield resource, every(properties.get("SubnetIds") or [])
        elif resource.type == "AWS::ECS::Service":
            settings = (properties.get("NetworkConfiguration") or {}).get("AwsvpcConfiguration") or {}
            yield resource, every(settings.get("Subnets") or ["none"])


def _endpoints(variant: Variant) -> Found:
    ways = [
        endpoint
        for endpoint in variant.of("AWS::EC2::VPCEndpoint")
        if str(endpoint.properties.get("ServiceName")).endswith(".s3")
    ]
    served = {str(network) for way in ways for network in each(way.properties.get("VpcId"))}
    for network in variant.of("AWS::EC2::VPC"):
        if f"${{{network.name}}}" not in served:
            yield (
                network.name,
                "no-endpoint",
                "S3 cannot be reached from here but through the internet; expected an endpoint for S3",
            )
    for endpoint in variant.of("AWS::EC2::VPCEndpoint"):
        # Whose credentials may pass is a rule over every policy (access): aws:PrincipalAccount, on each statement.
        if not endpoint.properties.get("PolicyDocument"):
            yield (
                endpoint.name,
                "endpoint-for-all",
                "lets through everyone inside, with anybody's credentials; expected a PolicyDocument for our account",
            )
        for statement in statements(endpoint.properties.get("PolicyDocument")):
            # The name of a bucket says nothing of its owner: one that was deleted may be somebody else's tomorrow.
            if endpoint in ways and statement.get("Effect") == "Allow" and not is_of_aws(statement):
                owners = condition_of(statement).get(("stringequals", "aws:resourceaccount"))
                if owners != ["${AWS::AccountId}"]:
                    yield (
                        endpoint.name,
                        "endpoint-for-others",
                        "lets through to buckets of other accounts; expected StringEquals aws:ResourceAccount",
                    )
    for endpoint in variant.of("AWS::EC2::VPCEndpoint"):
        if endpoint not in ways and not every(endpoint.properties.get("SecurityGroupIds") or []):
            yield endpoint.name, "endpoint-for-all", "the default group lets in too many; expected SecurityGroupIds"


# --- Load balancers ---------------------------------------------------------------------------------------------------------


def _of_balancers(variant: Variant) -> set[str]:
    """Return the groups that stand before load balancers and before nothing else."""
    before = {
        str(group)
        for balancer in variant.of("AWS::ElasticLoadBalancingV2::LoadBalancer")
        for group in every(balancer.properties.get("SecurityGroups") or [])
    }
    between = {"AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupEgress", "AWS::EC2::SecurityGroupIngress"}
    elsewhere: set[str] = set()
    for resource in variant.resources.values():
        if resource.type not in between | {"AWS::ElasticLoadBalancingV2::LoadBalancer"}:
            elsewhere |= before & set(re.findall(r"\$\{[^}]*\}", str(resource.properties)))
    return before - elsewhere


def _balancers(variant: Variant) -> Found:
    for listener in variant.of("AWS::ElasticLoadBalancingV2::Listener"):
        properties = listener.properties
        if [str(one) for one in each(properties.get("Protocol"))] != ["HTTPS"]:
            yield (
                listener.name,
                "no-tls",
                f"listens with {properties.get('Protocol')}; expected HTTPS alone, not even a redirect from HTTP",
            )
        if [str(one) for one in each(properties.get("Port"))] != ["443"]:
            yield listener.name, "no-tls", f"listens on {properties.get('Port')}; expected 443"
        if not all(str(one) in _TLS for one in each(properties.get("SslPolicy"))):
            yield (
                listener.name,
                "old-tls",
                f"speaks {properties.get('SslPolicy')}; expected one of {', '.join(sorted(_TLS))}",
            )
    for balancer in variant.of("AWS::ElasticLoadBalancingV2::LoadBalancer"):
        attributes = {
            str(one.get("Key")): one.get("Value")
            for one in every(balancer.properties.get("LoadBalancerAttributes") or [])
        }
        for key, why in (
            ("access_logs.s3.enabled", "no-logs"),
            ("routing.http.drop_invalid_header_fields.enabled", "odd-headers"),
            ("deletion_protection.enabled", "unprotected"),
        ):
            if [str(one).lower() for one in each(attributes.get(key))] != ["true"]:
                yield balancer.name, why, f"{key} is {attributes.get(key)}; expected true"
        if not every(balancer.properties.get("SecurityGroups") or []) or any(
            is_open(group) and group.startswith(("${param:", "${import:"))
            for group in every(balancer.properties["SecurityGroups"])
        ):
            yield (
                balancer.name,
                "source-unknown",
                "its groups are not of this template; expected SecurityGroups that are",
            )

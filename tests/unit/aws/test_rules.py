"""Every hole that was made in the templates on purpose is noticed, however it is written; the templates themselves are clean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.templates import by_our_rules, mutants
from scan.cloudformation import Choice, each, variants
from scan.rules import Finding, check, templates

from fruits.aws.installation.stacks import TemplateError, parse

MUTANTS = mutants()
ROOT = Path(__file__).parents[3]


def test_the_templates_are_clean() -> None:
    assert sorted(templates()) == ["batch.yaml", "budget.yaml", "roles.yaml", "service.yaml", "storage.yaml"]
    assert check(templates()) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.what for mutant in MUTANTS])
def test_a_hole_is_noticed(mutant) -> None:
    noticed = by_our_rules(mutant)
    assert mutant.rule in noticed
    # Noticed for what it is, not because the mutant cannot be read.
    assert mutant.rule == "not-judged" or "not-judged" not in noticed


def test_every_rule_has_a_hole_that_it_notices() -> None:
    folder = ROOT / "scan/rules"
    source = "\n".join(path.read_text() for path in folder.glob("[a-z]*.py"))
    rules = set(re.findall(r'yield (?:\w+\.name, )?(?:name, |where\[group\], )?\(?"([a-z0-9-]+)",', source))
    assert len(rules) > 35
    assert rules - {mutant.rule for mutant in MUTANTS} <= {"no-dashboard"}
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS) >= 100


def test_templates_of_ones_own_are_held_to_the_rules(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text(
        "Resources:\n  Net:\n    Type: AWS::EC2::SecurityGroup\n    Properties: { GroupDescription: none }\n"
    )
    (tmp_path / "broken.yaml").write_text("{{{")
    command = [sys.executable, "-m", "scan", tmp_path / "open.yaml", tmp_path / "broken.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"{tmp_path / 'open.yaml'}: Net: open-way-out: " in done.stdout
    assert f"{tmp_path / 'broken.yaml'}: whole template: not-judged: not YAML" in done.stdout


def test_a_mutant_whose_words_are_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 times in"):
        MUTANTS[0].text("Resources: {}")


# --- A rule for a group, said in every way that CloudFormation knows ------------------------------------------------------------

GROUP = """
Parameters:
  Open: { Type: String, Default: "no", AllowedValues: ["yes", "no"] }
  Free: { Type: String, Default: quiet }
  Cidr: { Type: String, Default: 0.0.0.0/0 }
  Range: { Type: CommaDelimitedList, Default: "10.0.0.0/8,0.0.0.0/0" }
  Port: { Type: Number, Default: 22 }
Mappings:
  Map: { eu-west-1: { Cidr: 10.0.0.0/8 }, eu-west-3: { Cidr: 0.0.0.0/0 } }
Conditions:
  IsOpen: !Equals [!Ref Open, "yes"]
  IsClosed: !Not [!Condition IsOpen]
  IsLoud: !Equals [!Ref Free, loud]
  Both: !And [!Condition IsOpen, !Condition IsLoud]
Resources:
  Net: { Type: AWS::EC2::VPC, Properties: { CidrBlock: 10.0.0.0/16 } }
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      VpcId: !Ref Net
      SecurityGroupEgress: [{ IpProtocol: "-1", CidrIp: 127.0.0.1/32 }]
      SecurityGroupIngress: RULE
"""
HIDDEN = [
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Ref Cidr }]",
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Sub "${Cidr}" }]',
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Sub ["${Where}/0", { Where: 0.0.0.0 }] }]',
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Join ["", ["0.0.0.0", "/", "0"]] }]',
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Select [1, !Ref Range] }]",
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !Select [1, !Split [",", "10.0.0.0/8,0.0.0.0/0"]] }]',
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !FindInMap [Map, !Ref AWS::Region, Cidr] }]",
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !If [IsOpen, 0.0.0.0/0, 10.0.0.0/8] }]",
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: !If [IsClosed, 10.0.0.0/8, 0.0.0.0/0] }]",
    "[!If [Both, { IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: 0.0.0.0/0 }, !Ref AWS::NoValue]]",
    "!If [IsLoud, [{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: 0.0.0.0/0 }], []]",
    "!If [IsLoud, [!If [IsOpen, { IpProtocol: tcp, FromPort: !Ref Port, CidrIp: 0.0.0.0/0 }, !Ref AWS::NoValue]], []]",
    '[{ "Fn::If": [IsOpen, { IpProtocol: "6", FromPort: "22", ToPort: "22", CidrIp: 0.0.0.0/00 }, { Ref: AWS::NoValue }] }]',
    "[{ IpProtocol: TCP, FromPort: 22.0, ToPort: 22.0, CidrIp: 0.0.0.0/0 }]",
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: " 0.0.0.0/0 " }]',
    "[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: 93.184.216.34/0 }]",
    '[{ IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIpv6: "2000::/3" }]',
    "[{ IpProtocol: tcp, CidrIp: 0.0.0.0/0 }]",
]  # fmt: skip


@pytest.mark.parametrize("rule", HIDDEN)
def test_no_intrinsic_function_hides_a_hole(rule: str) -> None:
    found = {finding.rule for finding in check({"t.yaml": GROUP.replace("RULE", rule)}, whole=False)}
    assert "open-to-the-world" in found
    assert "not-judged" not in found


UNKNOWN = [
    "!Transform { Name: AWS::Include, Parameters: { Location: s3://b/k } }",
    '[{ IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: !ImportValue somebody }]',
    '[{ IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: "{{resolve:ssm:/office}}" }]',
    "[{ IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: !GetAtt Other.Cidr }]",
    "[{ IpProtocol: tcp, FromPort: 443, ToPort: 443, SourceSecurityGroupId: sg-12345678 }]",
    "[{ IpProtocol: tcp, FromPort: 443, ToPort: 443, SourceSecurityGroupName: default }]",
    "[{ IpProtocol: tcp, FromPort: 443, ToPort: 443 }]",
]  # fmt: skip


@pytest.mark.parametrize("rule", UNKNOWN)
def test_what_cannot_be_told_is_no_pass(rule: str) -> None:
    found = {finding.rule for finding in check({"t.yaml": GROUP.replace("RULE", rule)}, whole=False)}
    assert found & {"source-unknown", "not-judged"}


def test_a_group_of_the_template_on_one_port_is_a_pass() -> None:
    text = GROUP.replace(
        "RULE", "[{ IpProtocol: tcp, FromPort: 8080, ToPort: 8080, SourceSecurityGroupId: !Ref Group }]"
    )
    assert {finding.rule for finding in check({"t.yaml": text}, whole=False)} == {"no-flow-log", "no-endpoint"}


# --- Policies ---------------------------------------------------------------------------------------------------------------

ROLE = """
Conditions: {{}}
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Statement: [{{ Effect: Allow, Principal: {{ Service: ec2.amazonaws.com }}, Action: sts:AssumeRole }}]
      Policies: [{{ PolicyName: p, PolicyDocument: {{ Statement: {statement} }} }}]
"""
#: A statement that passes a role on, but for the resource and the condition.
PASS = "[{{ Effect: Allow, Action: {}, Resource: {}, Condition: {{ {}: {{ iam:PassedToService: {} }} }} }}]"
EC2 = "ec2.amazonaws.com"
TABLES = "!Sub 'arn:aws:dynamodb:${AWS::Region}:${AWS::AccountId}:table/*'"
ROLES = "!Sub 'arn:aws:iam::${AWS::AccountId}:role/x*'"
GRANTS = [
    ("{ Effect: Allow, Action: '*', Resource: !GetAtt B.Arn }", "wildcard-action"),
    ("[{ Effect: Allow, Action: 's3:Get?bject', Resource: !GetAtt B.Arn }]", "wildcard-action"),
    ("[{ Effect: Allow, Action: !Sub '${Verb}', Resource: !GetAtt B.Arn }]", "wildcard-action"),
    ("[{ Effect: Allow, Action: s3:GetObject, Resource: 'arn:aws:s3:::*' }]", "wildcard-resource"),
    ("[{ Effect: Allow, Action: s3:GetObject, Resource: 'arn:aws:s3:::fruits*/x' }]", "wildcard-resource"),
    ("[{ Effect: Allow, Action: s3:GetObject, Resource: 'arn:*:s3:::fruits/x' }]", "wildcard-resource"),
    ("[{ Effect: Allow, Action: s3:GetObject, Resource: '*:*' }]", "wildcard-resource"),
    ("[{ Effect: Allow, Action: s3:GetObject }]", "wildcard-resource"),
    (f"[{{ Effect: Allow, Action: dynamodb:GetItem, Resource: {TABLES} }}]", "wildcard-resource"),
    ("[{ Effect: Allow, Action: [ecr:GetAuthorizationToken, ecr:PutImage], Resource: '*' }]", "wildcard-resource"),
    (PASS.format("IAM:PassRole", ROLES, "StringEquals", EC2), "pass-role"),
    (PASS.format("iam:PassRole", "!GetAtt R.Arn", "StringEqualsIfExists", EC2), "pass-role"),
    (PASS.format("iam:PassRole", "!GetAtt R.Arn", "StringEquals", f"[{EC2}, '*']"), "pass-role"),
    ("[{ Effect: Allow, Action: iam:CreateAccessKey, Resource: !GetAtt R.Arn }]", "escalation"),
    ("[{ Effect: Allow, Action: sts:AssumeRole, Resource: !GetAtt R.Arn }]", "escalation"),
    ("[{ Effect: allow, Action: s3:GetObject, Resource: !GetAtt B.Arn }]", "not-judged"),
    ("[{ Effect: Allow, Actions: s3:GetObject, Resource: !GetAtt B.Arn }]", "not-judged"),
    ("[]", "not-judged"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "rule"), GRANTS)
def test_what_grants_too_much_is_noticed(statement: str, rule: str) -> None:
    assert rule in {finding.rule for finding in check({"t.yaml": ROLE.format(statement=statement)}, whole=False)}


@pytest.mark.parametrize("statement", [
    "[{ Effect: Allow, Action: [s3:GetObject], Resource: !Sub '${B.Arn}/runs/*' }]",
    "[{ Effect: Allow, Action: ecr:GetAuthorizationToken, Resource: '*' }]",
    PASS.format("iam:PassRole", "!GetAtt R.Arn", "StringEquals", EC2),
    "[{ Effect: Deny, Action: '*', Resource: '*' }, { Effect: Deny, NotAction: s3:GetObject, Resource: '*' }]",
])  # fmt: skip
def test_what_names_its_things_is_a_pass(statement: str) -> None:
    assert check({"t.yaml": ROLE.format(statement=statement)}, whole=False) == []


# --- Templates that are none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    "", "[]", "Resources: []", "Resources: { A: 1 }", "{", "Resources: { A: { Type: AWS::S3::Bucket, Condition: Gone } }",
    "Resources: { A: { Type: AWS::S3::Bucket, Type: AWS::S3::Bucket } }", "Resources: { A: { Type: AWS::EC2::Instance } }",
    "Resources: { A: { Properties: {} } }", "Transform: X\nResources: {}", "a: !!python/object/apply:os.system [true]",
    "Resources: { A: { Type: AWS::IAM::Role, Properties: { Policies: [7] } } }",
    "Resources: { A: { Type: AWS::S3::Bucket, Properties: { LifecycleConfiguration: 7 } } }",
    "Conditions: { C: !Equals [!Ref P, a] }\nParameters: { P: { Type: String } }\nResources: { A: !If [C, {}, {}] }",
])  # fmt: skip
def test_what_is_no_template_is_a_finding(text: str) -> None:
    assert check({"t.yaml": text}, whole=False)


def test_too_many_combinations_are_a_finding() -> None:
    names = [f"P{at}" for at in range(9)]
    text = "Parameters:\n" + "".join(
        f"  {name}: {{ Type: String, Default: a, AllowedValues: [a, b] }}\n" for name in names
    )
    text += "Conditions:\n" + "".join(f"  C{name}: !Equals [!Ref {name}, a]\n" for name in names) + "Resources: {}\n"
    assert [finding.rule for finding in check({"t.yaml": text}, whole=False)] == ["not-judged"]


def test_variants_follow_the_conditions_that_depend_on_each_other() -> None:
    batch = list(variants(parse(templates()["batch.yaml"])))
    assert len(batch) == 2**5  # Compute, Spot, LiveLogs, Notebooks, Image
    both = [one for one in batch if one.of("AWS::EMR::Cluster") and one.of("AWS::EMRServerless::Application")]
    neither = [one for one in batch if not one.of("AWS::EMR::Cluster", "AWS::EMRServerless::Application")]
    assert both == neither == []


def test_a_choice_of_choices_is_every_value() -> None:
    assert list(each(Choice((1, Choice((2, 3)))))) == [1, 2, 3]


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(TemplateError, match="'A' is there twice"):
        parse("Resources: { A: { Type: X }, A: { Type: Y } }")


def test_what_is_deployed_whole_is_judged_whole() -> None:
    found = check({"mine.yaml": GROUP.replace("RULE", "[]")}, whole=True)
    assert {finding.rule for finding in found} >= {"no-budget", "no-stop", "no-dashboard", "no-flow-log"}
    assert str(found[-1]).startswith("mine.yaml: Net: no-flow-log: ")
    assert isinstance(found[0], Finding)

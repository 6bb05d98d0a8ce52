"""The OpenAPI document and its page: valid, complete, and true of what a server answers."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from intarsia.endpoints.schemas import openapi as documented
from intarsia.server.routes.openapi import openapi
from tests.server.event_stream import ended

# What clients of the hosted service use besides the documented addresses, and files, whose addresses replies give.
ALIASES = ("/api/v7/images/", "/api/v1/enterprise/images/", "/api/v1/enterprise/realtime/", "/files/")

DOCUMENT = openapi()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def validator(name: str) -> jsonschema.Draft202012Validator:
    registry = Registry().with_resource("urn:document", Resource(DOCUMENT, DRAFT202012))
    schema = {"$ref": f"urn:document#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator(schema, registry=registry)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method.upper(), path, operation


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_component_is_a_valid_schema(name):
    jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_reference_means_a_component_and_every_component_is_meant():
    found = {reference.removeprefix("#/components/schemas/") for reference in references(DOCUMENT)}
    assert found == set(DOCUMENT["components"]["schemas"])


def test_the_documented_endpoints_are_as_the_documents_have_them():
    theirs = documented()
    for path, item in theirs["paths"].items():
        ours = DOCUMENT["paths"][path]["post"]
        expected = item["post"] | {"responses": ours["responses"] | item["post"]["responses"]}
        assert {key: ours[key] for key in item["post"]} == expected
        assert set(ours["responses"]) - set(item["post"]["responses"]) == {"413", "422", "429"}  # of a server alone
    for name, schema in theirs["components"]["schemas"].items():
        assert DOCUMENT["components"]["schemas"][name] == schema


def test_every_operation_has_what_openapi_asks_for():
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for method, path, operation in operations():
        assert operation["summary"], (method, path)
        assert set(operation["tags"]) <= tags
        assert all(response["description"] for response in operation["responses"].values())
        parameters = DOCUMENT["paths"][path].get("parameters", []) + operation.get("parameters", [])
        in_path = {each["name"] for each in parameters if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), path


def test_every_route_is_in_the_document_and_nothing_else_is(idle):
    import fastapi

    from intarsia.server.app import create_app

    application = create_app(idle.services)
    assert isinstance(application, fastapi.FastAPI)
    routes = {(method, path) for method, path in routes_of(application.router) if method != "HEAD"}
    wanted = {(method, path) for method, path in routes if not path.startswith(ALIASES)}
    about = {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/page/{name:path}")}
    assert wanted - about == {(method, path) for method, path, _ in operations()}


def routes_of(router: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route, those of included routers too."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner)
        elif hasattr(route, "path"):
            yield from ((method, route.path) for method in route.methods or ())


def test_replies_are_what_the_document_says(server, job_fields):
    def check(name: str, reply: object) -> None:
        validator(name).validate(reply)

    response = server.client.post("/jobs", json=job_fields)
    check("Job", response.json())
    done = ended(server.client, response.json())
    check("Job", done)
    check("JobPage", server.client.get("/jobs").json())
    check("Error", server.client.get("/jobs/1").json())
    check("Error", server.client.post("/jobs", json={"width": 1}).json())
    check("InpaintRequest", job_fields)
    for path, name in {
        "/models": "Models",
        "/schedulers": "Schedulers",
        "/healthz": "Health",
        "/readyz": "Readiness",
    }.items():
        check(name, server.client.get(path).json())

    assert not validator("Job").is_valid({**done, "other": 1})
    assert not validator("Job").is_valid({**done, "state": "waiting"})
    assert server.client.get("/openapi.json").json() == DOCUMENT


class Page(HTMLParser):
    """Tags with what they refer to, and the text of the style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.ids, self.style, self.open = set(), set(), set(), "", []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value for name, value in attributes if name in ("href", "src", "action", "style", "onclick")}
        self.ids |= {value for name, value in attributes if name == "id"}
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data


def test_the_page_loads_nothing_and_runs_nothing(idle):
    response = idle.client.get("/docs")
    page = Page(response.text)
    assert page.tags & {"script", "img", "iframe", "object", "form", "link"} == set()
    assert {link.removeprefix("#") for link in page.links} <= page.ids | {"openapi.json"}

    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"


def test_the_page_has_every_operation_and_every_field(idle):
    text = idle.client.get("/docs").text
    for method, path, _ in operations():
        assert f"<h3><code>{method} {path}</code></h3>" in text
    for schema in DOCUMENT["components"]["schemas"].values():
        assert all(f"<code>{field}</code>" in text for field in schema.get("properties", {}))

"""The TypeScript package as fixtures. A machine without Node leaves these tests out loudly; `FABSTIR_REQUIRE=js` makes
that a failure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients import toolbox
from tests.clients.toolbox import Tools
from tests.conftest import leave_out
from tests.support.once import made_once


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    """The first test that uses it pays for the install."""
    try:
        return toolbox.ensure_tools()
    except toolbox.ToolsMissing as error:
        leave_out(pytestconfig, "js", str(error))


@pytest.fixture(scope="session")
def tarball(tools: Tools, request: pytest.FixtureRequest) -> Path:
    """The package as `npm pack` makes it."""
    made = made_once(request, "typescript", lambda place: toolbox.pack(tools, place))
    [packed] = made.glob("package/*.tgz")
    return packed


@pytest.fixture(scope="session")
def installed(tools: Tools, tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the tarball installed, and with the package's own tests in `test`."""
    place = toolbox.project(tools, tarball, tmp_path_factory.mktemp("installed") / "project", type="module")
    shutil.copytree(toolbox.PACKAGE / "test", place / "test")
    return place

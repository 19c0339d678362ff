"""Who is let in, and that no secret is ever shown."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from backfill_pipeline.errors import SettingsError, UsageError
from backfill_pipeline.scb_simulator.tokens import VARIABLES, Credentials, from_environment, made_up
from backfill_pipeline.scb_simulator.web.app import OPERATIONS
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.scb_simulator.conftest import Served
from backfill_pipeline_tests.scb_simulator.test_reading import problem

TOKEN, CLIENT_ID, CLIENT_SECRET, ADMIN_TOKEN = VARIABLES
OPEN = {"health", "openapi", "docs", "token"}


def ask(client: Client, method: str, path: str, **headers: str) -> httpx.Response:
    url = f"{client.simulator.base_url}{path.replace('{ledger}', 'SCB-01')}"
    return httpx.request(method, url, headers=headers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
class TestEveryOperation:
    def test_without_a_token_it_is_closed_unless_it_is_open_to_all(self, shared: Client, operation) -> None:
        response = ask(shared, operation.method, operation.path)
        if operation.name in OPEN:
            assert response.status_code != 401 or operation.name == "token"
            return
        problem(response, 401, "no_token")
        assert response.headers["www-authenticate"] == 'Bearer realm="scb-simulator"'

    @pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic eDp5", "Bearer é"])
    def test_with_a_wrong_token_it_is_closed(self, shared: Client, operation, header: str) -> None:
        if operation.name not in OPEN:
            response = ask(shared, operation.method, operation.path, Authorization=header.encode("latin-1"))
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer ")

    def test_the_admins_token_and_the_apis_do_not_open_each_others_doors(
        self, shared: Client, operation
    ) -> None:
        own = shared.simulator.credentials
        token = {"api": own.admin_token, "admin": own.token}.get(operation.guard)
        if token is not None:
            response = ask(shared, operation.method, operation.path, Authorization=f"Bearer {token}")
            problem(response, 401, "invalid_token")


class TestClientCredentials:
    def token(self, client: Client, data: dict[str, str], **headers: str) -> httpx.Response:
        return httpx.post(f"{client.simulator.base_url}/oauth/token", data=data, headers=headers)

    @pytest.mark.parametrize("where", ["header", "body"])
    def test_a_token_is_issued_and_opens_the_api(self, shared: Client, where: str) -> None:
        own = shared.simulator.credentials
        form = {"grant_type": "client_credentials"}
        headers = {}
        if where == "header":
            pair = base64.b64encode(f"{own.client_id}:{own.client_secret}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        else:
            form |= {"client_id": str(own.client_id), "client_secret": str(own.client_secret)}
        response = self.token(shared, form, **headers)
        answer = response.json()
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
        assert response.headers["cache-control"] == "no-store"
        assert (
            ask(shared, "GET", "/ledgers", Authorization=f"Bearer {answer['access_token']}").status_code
            == 200
        )

    def test_a_token_ends_after_its_lifetime(self, served: Served) -> None:
        client = served(token_lifetime_s=100)
        own, tokens = client.simulator.credentials, client.simulator.bank.tokens
        clock = {"now": 1_700_000_000.0}
        tokens._now_s = lambda: clock["now"]
        form = {
            "grant_type": "client_credentials",
            "client_id": own.client_id,
            "client_secret": own.client_secret,
        }
        header = {"Authorization": f"Bearer {self.token(client, form).json()['access_token']}"}
        clock["now"] += 99
        assert ask(client, "GET", "/ledgers", **header).status_code == 200
        clock["now"] += 1
        problem(ask(client, "GET", "/ledgers", **header), 401, "invalid_token")

    @pytest.mark.parametrize(
        ("change", "status", "error"),
        [
            ({"client_secret": "wrong"}, 401, "invalid_client"),
            ({"client_id": "wrong"}, 401, "invalid_client"),
            ({"client_secret": ""}, 401, "invalid_client"),
            ({"grant_type": "password"}, 400, "unsupported_grant_type"),
            ({"grant_type": ""}, 400, "unsupported_grant_type"),
        ],
    )
    def test_what_is_wrong_is_said_as_oauth_does(
        self, shared: Client, change: dict[str, str], status: int, error: str
    ) -> None:
        own = shared.simulator.credentials
        form = {
            "grant_type": "client_credentials",
            "client_id": str(own.client_id),
            "client_secret": str(own.client_secret),
        }
        response = self.token(shared, {**form, **change})
        assert (response.status_code, response.json()["error"]) == (status, error)
        assert ("www-authenticate" in response.headers) == (status == 401)

    @pytest.mark.parametrize("header", ["Basic !!!", "Basic eA==", "Bearer x", "Basic /w=="])
    def test_a_header_that_cannot_be_read_is_no_client(self, shared: Client, header: str) -> None:
        response = self.token(shared, {"grant_type": "client_credentials"}, Authorization=header)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")

    @pytest.mark.parametrize("body", [b"\xff=\xfe", b"&".join([b"a=b"] * 50), b"grant_type=a&grant_type=b"])
    def test_a_body_that_cannot_be_read_is_refused(self, shared: Client, body: bytes) -> None:
        url = f"{shared.simulator.base_url}/oauth/token"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert httpx.post(url, content=body, headers=kind).json()["error"] in (
            "invalid_request",
            "invalid_client",
        )
        assert httpx.post(url, json={}).json()["error"] == "invalid_request"


ALL = {TOKEN: "token-123", CLIENT_ID: "client-1", CLIENT_SECRET: "secret-12", ADMIN_TOKEN: "admin-123"}


class TestEnvironment:
    def test_all_or_some_of_them(self) -> None:
        assert from_environment({}) is None
        assert from_environment({TOKEN: ""}) is None
        assert from_environment(ALL) == Credentials("token-123", "client-1", "secret-12", "admin-123")
        assert from_environment({TOKEN: "token-123"}) == Credentials("token-123")

    @pytest.mark.parametrize(
        ("environment", "says"),
        [
            ({TOKEN: "short"}, f"{TOKEN} must be 8 to 512"),
            ({TOKEN: "with space"}, f"{TOKEN} must be 8 to 512"),
            ({TOKEN: "zwölfzwölf"}, f"{TOKEN} must be 8 to 512"),
            ({CLIENT_ID: "client-1"}, f"{CLIENT_SECRET} is needed"),
            ({CLIENT_SECRET: "secret-12"}, f"{CLIENT_ID} is needed"),
            ({ADMIN_TOKEN: "admin-123"}, f"{ADMIN_TOKEN} is set alone"),
            ({TOKEN: "same-same", ADMIN_TOKEN: "same-same"}, f"{ADMIN_TOKEN} must differ"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_never_quoted(
        self, environment: dict[str, str], says: str
    ) -> None:
        with pytest.raises(SettingsError) as raised:
            from_environment(environment)
        assert says in str(raised.value)
        assert not any(value in str(raised.value) for value in environment.values())

    def test_without_an_admin_token_the_admin_api_is_closed(self, served: Served) -> None:
        client = served(credentials=Credentials("token-123"))
        problem(ask(client, "GET", "/admin/log", Authorization="Bearer None"), 403, "admin_closed")
        assert client.get("entries").status_code == 200
        form = {"grant_type": "client_credentials", "client_id": "None", "client_secret": "None"}
        assert httpx.post(f"{client.simulator.base_url}/oauth/token", data=form).status_code == 401


class TestMadeUp:
    def test_they_are_kept_for_their_owner_alone_and_used_again(self, tmp_path: Path) -> None:
        file = tmp_path / "deep" / "state.env"
        made = made_up(file)
        assert file.stat().st_mode & 0o777 == 0o600
        assert made_up(file) == made != made_up(tmp_path / "other.env")
        assert file.read_text().startswith(f"export {TOKEN}=")

    def test_a_file_that_holds_something_else_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "state.env"
        file.write_bytes(b"export X=1\n\xff")
        with pytest.raises(UsageError, match="delete it for new ones"):
            made_up(file)
        assert file.read_bytes() == b"export X=1\n\xff"

    def test_repr_shows_nothing(self) -> None:
        assert repr(Credentials("token-123", "client-1", "secret-12", "admin-123")) == "Credentials()"


def test_the_log_and_the_state_hold_no_token(served: Served, tmp_path: Path) -> None:
    client = served(state=tmp_path / "state.sqlite")
    own = client.simulator.credentials
    form = {
        "grant_type": "client_credentials",
        "client_id": own.client_id,
        "client_secret": own.client_secret,
    }
    issued = httpx.post(f"{client.simulator.base_url}/oauth/token", data=form).json()["access_token"]
    client.get("entries", access_token=own.token)
    client.http.get("/nowhere", params={"token": str(own.token)})
    text = client.admin.get("/admin/log").text
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in (own.token, own.client_id, own.client_secret, own.admin_token, issued):
        assert secret is not None
        assert secret not in text
        assert secret.encode() not in stored

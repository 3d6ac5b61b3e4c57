"""Kronos as a client meets it that is built on authlib: everything is read from the metadata, nothing is special to Kronos.

Reads {"issuer", "public", "confidential", "secret", "username", "password"} from standard input; an exception means failure.
"""

import json
import os
import sys
import time
from html.parser import HTMLParser
from urllib.parse import urljoin

# The test's gateway is plain HTTP on this machine.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.jwk import KeySet

REDIRECT = "http://127.0.0.1:47110/cb"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Form(HTMLParser):
    """The first form of a page."""

    def __init__(self, html):
        super().__init__()
        self.action, self.fields, self.done = None, {}, False
        self.feed(html)
        assert self.action, html

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form" and self.action is None:
            self.action = attributes["action"]
        elif tag == "input" and self.action and not self.done and attributes.get("name"):
            self.fields[attributes["name"]] = attributes.get("value", "")

    def handle_endtag(self, tag):
        self.done = self.done or (tag == "form" and self.action is not None)


class Person:
    """Somebody with a browser: follows redirects as far as they stay at the issuer, and fills in forms."""

    def __init__(self, issuer, username, password):
        self.issuer, self.username, self.password = issuer, username, password
        self.browser = requests.Session()

    def open(self, url):
        return self.follow(self.browser.get(url, allow_redirects=False))

    def follow(self, answer):
        while answer.status_code in (302, 303):
            url = urljoin(answer.url, answer.headers["location"])
            if not url.startswith(self.issuer + "/"):
                return url
            answer = self.browser.get(url, allow_redirects=False)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer

    def submit(self, page, **fields):
        form = Form(page.text)
        url = urljoin(page.url, form.action)
        return self.follow(self.browser.post(url, data={**form.fields, **fields}, allow_redirects=False))

    def go_through(self, url):
        """Logs in and says yes where asked; returns where it ends."""
        page = self.open(url)
        if not isinstance(page, str) and 'name="password"' in page.text:
            page = self.submit(page, username=self.username, password=self.password)
        if not isinstance(page, str) and 'value="allow"' in page.text:
            page = self.submit(page, decision="allow")
        return page


def main():
    given = json.load(sys.stdin)
    issuer = given["issuer"]
    metadata = requests.get(f"{issuer}/.well-known/openid-configuration").json()
    assert metadata["issuer"] == issuer, metadata
    person = Person(issuer, given["username"], given["password"])
    keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"]).json())

    # Code with PKCE: a public client, and one with a secret.
    for client_id, secret, method in [
        (given["public"], None, "none"),
        (given["confidential"], given["secret"], "client_secret_basic"),
    ]:
        client = OAuth2Session(
            client_id,
            secret,
            token_endpoint_auth_method=method,
            scope="openid profile email offline_access",
            redirect_uri=REDIRECT,
            code_challenge_method="S256",
        )
        verifier, nonce = generate_token(48), generate_token(20)
        url, state = client.create_authorization_url(
            metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce
        )
        back = person.go_through(url)
        assert back.startswith(REDIRECT), back
        token = client.fetch_token(
            metadata["token_endpoint"], authorization_response=back, code_verifier=verifier, state=state
        )
        id_token = jwt.decode(token["id_token"], keys, algorithms=metadata["id_token_signing_alg_values_supported"])
        jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": client_id},
            nonce={"essential": True, "value": nonce},
            exp={"essential": True},
        ).validate(id_token.claims)
        info = client.get(metadata["userinfo_endpoint"])
        assert info.status_code == 200, info.text
        assert info.json()["sub"] == id_token.claims["sub"], info.text
        assert info.json()["preferred_username"] == given["username"], info.text

        before = token["access_token"]
        fresh = client.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"])
        assert fresh["access_token"] != before
        if secret:
            seen = client.introspect_token(metadata["introspection_endpoint"], token=fresh["access_token"])
            assert seen.json()["active"] is True, seen.text
            client.revoke_token(metadata["revocation_endpoint"], token=fresh["refresh_token"])
            seen = client.introspect_token(metadata["introspection_endpoint"], token=fresh["access_token"])
            assert seen.json()["active"] is False, seen.text

    # Client credentials, by both ways to show a secret.
    for method in ("client_secret_basic", "client_secret_post"):
        client = OAuth2Session(given["confidential"], given["secret"], token_endpoint_auth_method=method)
        token = client.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
        assert token["token_type"] == "Bearer", token

    # A device.
    client = OAuth2Session(given["public"], token_endpoint_auth_method="none")
    codes = requests.post(
        metadata["device_authorization_endpoint"], data={"client_id": given["public"], "scope": "openid"}
    ).json()
    poll = {"client_id": given["public"], "grant_type": DEVICE_GRANT, "device_code": codes["device_code"]}
    early = requests.post(metadata["token_endpoint"], data=poll, headers={"accept": "application/json"})
    assert (early.status_code, early.json()["error"]) == (400, "authorization_pending"), early.text
    page = person.submit(person.open(codes["verification_uri_complete"]))
    person.submit(page, decision="allow")
    time.sleep(codes["interval"])
    token = client.fetch_token(
        metadata["token_endpoint"], grant_type=DEVICE_GRANT, device_code=codes["device_code"]
    )
    assert token["access_token"] and token["id_token"], token

    # And out again.
    person.open(metadata["end_session_endpoint"] + "?id_token_hint=" + token["id_token"])
    page = person.open(metadata["end_session_endpoint"])
    assert "logged out" in page.text, page.text
    print("ok")


main()

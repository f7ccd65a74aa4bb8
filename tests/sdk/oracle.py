"""Signs and verifies webhooks with the providers' own packages, as tests/it/sdk.rs asks on standard input.

A line in, a line out, both JSON; bytes in base64. `sign` answers with headers, query and body of a request that the
provider would send: signed by its package, or, where the package can't sign, as the provider documents. `verify` says
whether the package takes a request. Nothing here knows of the program under test.
"""

import base64
import datetime
import hashlib
import json
import sys

URL = "https://hooks.example.com/"


def url_of(request):
    query = request.get("query")
    return URL + request["preset"] + ("?" + query if query else "")


def text(request):
    return base64.b64decode(request["body"]).decode("utf-8")


def header(request, name):
    return {known.lower(): value for known, value in request["headers"]}[name.lower()]


def all_headers(request):
    return {known.lower(): value for known, value in request["headers"]}


class Stripe:
    def sign(self, request):
        import stripe

        value = stripe.WebhookSignature.generate_signature_header(text(request), request["secret"], request["at"])
        return [["Stripe-Signature", value]]

    def verify(self, request):
        import stripe

        # Without building an event of it, so that any body will do.
        return stripe.WebhookSignature.verify_header(
            text(request), header(request, "stripe-signature"), request["secret"], 300
        )


class StandardWebhooks:
    start = "webhook"

    def package(self, request):
        from standardwebhooks.webhooks import Webhook

        return Webhook(request["secret"])

    def sign(self, request):
        at = datetime.datetime.fromtimestamp(request["at"], tz=datetime.timezone.utc)
        value = self.package(request).sign(request["id"], at, text(request))
        start = self.start
        return [[start + "-id", request["id"]], [start + "-timestamp", str(request["at"])], [start + "-signature", value]]

    def verify(self, request):
        self.package(request).verify(text(request), all_headers(request))
        return True


class Svix(StandardWebhooks):
    start = "svix"

    def package(self, request):
        from svix.webhooks import Webhook

        return Webhook(request["secret"])


class OpenAI(StandardWebhooks):
    """Its package only verifies; it documents Standard Webhooks."""

    def verify(self, request):
        import openai

        client = openai.OpenAI(api_key="none", webhook_secret=request["secret"])
        client.webhooks.verify_signature(text(request), all_headers(request))
        return True


class Slack:
    def package(self, request):
        from slack_sdk.signature import SignatureVerifier

        return SignatureVerifier(request["secret"])

    def sign(self, request):
        at = str(request["at"])
        value = self.package(request).generate_signature(timestamp=at, body=base64.b64decode(request["body"]))
        return [["X-Slack-Request-Timestamp", at], ["X-Slack-Signature", value]]

    def verify(self, request):
        return self.package(request).is_valid_request(base64.b64decode(request["body"]), all_headers(request))


class Twilio:
    """A form if the body is none of JSON; else the URL carries the body's hash."""

    def package(self, request):
        from twilio.request_validator import RequestValidator

        return RequestValidator(request["secret"])

    def is_json(self, request):
        return text(request).startswith("{")

    def parameters(self, request):
        from urllib.parse import parse_qsl

        from multidict import MultiDict

        return MultiDict(parse_qsl(text(request), keep_blank_values=True))

    def sign(self, request):
        if self.is_json(request):
            digest = hashlib.sha256(base64.b64decode(request["body"])).hexdigest()
            request["query"] = "&".join(filter(None, [request.get("query"), "bodySHA256=" + digest]))
            parameters, kind = {}, "application/json"
        else:
            parameters, kind = self.parameters(request), "application/x-www-form-urlencoded; charset=UTF-8"
        value = self.package(request).compute_signature(url_of(request), parameters)
        return [["Content-Type", kind], ["X-Twilio-Signature", value]]

    def verify(self, request):
        body = text(request) if "bodySHA256" in (request.get("query") or "") else self.parameters(request)
        return self.package(request).validate(url_of(request), body, header(request, "x-twilio-signature"))


class HubSpot:
    version = "v3"

    def signature(self, request, at):
        from hubspot.utils.signature import Signature

        return Signature.get_signature(
            client_secret=request["secret"],
            request_body=text(request),
            signature_version=self.version,
            http_uri=url_of(request),
            http_method="POST",
            timestamp=at,
        )

    def sign(self, request):
        at = str(request["at"] * 1000)
        value = self.signature(request, at)
        if self.version == "v3":
            return [["X-HubSpot-Request-Timestamp", at], ["X-HubSpot-Signature-v3", value]]
        return [["X-HubSpot-Signature-Version", self.version], ["X-HubSpot-Signature", value]]

    def verify(self, request):
        from hubspot.utils.signature import Signature

        is_v3 = self.version == "v3"
        return Signature.is_valid(
            signature=header(request, "x-hubspot-signature-v3" if is_v3 else "x-hubspot-signature"),
            client_secret=request["secret"],
            request_body=text(request),
            signature_version=self.version,
            http_uri=url_of(request),
            http_method="POST",
            timestamp=header(request, "x-hubspot-request-timestamp") if is_v3 else None,
        )


class HubSpotV1(HubSpot):
    version = "v1"


class HubSpotV2(HubSpot):
    version = "v2"


class SendGrid:
    """Its package only verifies; it documents ECDSA over the timestamp and the body."""

    def sign(self, request):
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = serialization.load_der_private_key(base64.b64decode(request["private"]), None)
        at = str(request["at"])
        signature = key.sign(at.encode() + base64.b64decode(request["body"]), ec.ECDSA(hashes.SHA256()))
        value = base64.b64encode(signature).decode()
        start = "X-Twilio-Email-Event-Webhook-"
        return [[start + "Timestamp", at], [start + "Signature", value]]

    def verify(self, request):
        from sendgrid.helpers.eventwebhook import EventWebhook

        start = "x-twilio-email-event-webhook-"
        signature, at = header(request, start + "signature"), header(request, start + "timestamp")
        return EventWebhook(request["secret"]).verify_signature(text(request), signature, at)


PRESETS = {
    "stripe": Stripe(),
    "standard-webhooks": StandardWebhooks(),
    "svix": Svix(),
    "openai": OpenAI(),
    "slack": Slack(),
    "twilio": Twilio(),
    "hubspot": HubSpot(),
    "hubspot-v1": HubSpotV1(),
    "hubspot-v2": HubSpotV2(),
    "sendgrid": SendGrid(),
}


def answer(request):
    preset = PRESETS[request["preset"]]
    if request["do"] == "sign":
        headers = preset.sign(request)
        return {"headers": headers, "query": request.get("query"), "body": request["body"]}
    try:
        return {"valid": bool(preset.verify(request))}
    except Exception as error:  # Each package has errors of its own for a signature that does not fit.
        return {"valid": False, "why": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    try:
        said = answer(json.loads(line))
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)

// Signs and verifies webhooks with the providers' own packages, as tests/it/sdk.rs asks on standard input.
//
// A line in, a line out, both JSON; bytes in base64. `sign` answers with headers, query and body of a request that the
// provider would send: signed by its package, or, where the package can't sign, as the provider documents. `verify`
// says whether the package takes a request. Nothing here knows of the program under test.

import crypto from "node:crypto";
import { EventEmitter } from "node:events";
import https from "node:https";
import readline from "node:readline";

const URL_START = "https://hooks.example.com/";

const bytes = (request) => Buffer.from(request.body, "base64");
const text = (request) => bytes(request).toString("utf8");
const header = (request, name) => {
  const found = request.headers.find(([known]) => known.toLowerCase() === name);
  if (!found) throw new Error(`no ${name}`);
  return found[1];
};
const hmac = (secret, encoding, ...parts) => {
  const mac = crypto.createHmac("sha256", secret);
  for (const part of parts) mac.update(part);
  return mac.digest(encoding);
};

const presets = {
  // Signs and verifies.
  github: async () => {
    const { Webhooks } = await import("@octokit/webhooks");
    const of = (request) => new Webhooks({ secret: request.secret });
    return {
      sign: async (request) => [
        ["X-GitHub-Delivery", request.id],
        ["X-GitHub-Event", "push"],
        ["X-Hub-Signature-256", await of(request).sign(text(request))],
      ],
      verify: (request) => of(request).verify(text(request), header(request, "x-hub-signature-256")),
    };
  },

  square: async () => {
    const { WebhooksHelper } = await import("square");
    const url = (request) => URL_START + request.preset;
    return {
      sign: (request) => [
        ["x-square-hmacsha256-signature", hmac(request.secret, "base64", url(request), bytes(request))],
      ],
      verify: (request) =>
        WebhooksHelper.verifySignature({
          requestBody: text(request),
          signatureHeader: header(request, "x-square-hmacsha256-signature"),
          signatureKey: request.secret,
          notificationUrl: url(request),
        }),
    };
  },

  discord: async () => {
    const { verifyKey } = await import("discord-interactions");
    const key = (seed) =>
      crypto.createPrivateKey({
        key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.from(seed, "hex")]),
        format: "der",
        type: "pkcs8",
      });
    return {
      sign: (request) => {
        const at = String(request.at);
        const message = Buffer.concat([Buffer.from(at), bytes(request)]);
        const signature = crypto.sign(null, message, key(request.private)).toString("hex");
        return [["X-Signature-Timestamp", at], ["X-Signature-Ed25519", signature]];
      },
      verify: (request) =>
        verifyKey(
          bytes(request),
          header(request, "x-signature-ed25519"),
          header(request, "x-signature-timestamp"),
          request.secret,
        ),
    };
  },

  paddle: async () => {
    const { Paddle } = await import("@paddle/paddle-node-sdk");
    const paddle = new Paddle("none");
    return {
      sign: (request) => {
        const at = String(request.at);
        return [["Paddle-Signature", `ts=${at};h1=${hmac(request.secret, "hex", at, ":", bytes(request))}`]];
      },
      verify: (request) =>
        paddle.webhooks.isSignatureValid(text(request), request.secret, header(request, "paddle-signature")),
    };
  },

  shopify: async () => {
    await import("@shopify/shopify-api/adapters/node");
    const { shopifyApi, ApiVersion } = await import("@shopify/shopify-api");
    const of = (request) =>
      shopifyApi({
        apiKey: "none",
        apiSecretKey: request.secret,
        apiVersion: Object.values(ApiVersion)[0],
        hostName: "hooks.example.com",
        isEmbeddedApp: false,
        logger: { log: () => {} },
      });
    return {
      sign: (request) => [
        ["X-Shopify-Topic", "orders/create"],
        ["X-Shopify-API-Version", "2025-01"],
        ["X-Shopify-Shop-Domain", "shop.myshopify.com"],
        ["X-Shopify-Webhook-Id", request.id],
        ["X-Shopify-Hmac-Sha256", hmac(request.secret, "base64", bytes(request))],
      ],
      verify: async (request) => {
        const raw = { method: "POST", url: "/shopify", headers: Object.fromEntries(request.headers) };
        const verdict = await of(request).webhooks.validate({
          rawBody: text(request),
          rawRequest: raw,
          rawResponse: {},
        });
        return verdict.valid;
      },
    };
  },

  linear: async () => {
    const { LinearWebhookClient } = await import("@linear/sdk/webhooks");
    return {
      sign: (request) => {
        const body = text(request).replace(/^\{/, `{"webhookTimestamp":${request.at * 1000},`);
        request.body = Buffer.from(body).toString("base64");
        return [
          ["Linear-Delivery", request.id],
          ["Linear-Event", "Issue"],
          ["Linear-Signature", hmac(request.secret, "hex", body)],
        ];
      },
      verify: (request) => {
        const { webhookTimestamp } = JSON.parse(text(request));
        return new LinearWebhookClient(request.secret).verify(
          bytes(request),
          header(request, "linear-signature"),
          webhookTimestamp,
        );
      },
    };
  },

  "aws-sns": async () => {
    const { default: Validator } = await import("sns-validator");
    const names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"];
    return {
      sign: (request) => {
        const message = {
          Type: "Notification",
          MessageId: request.id,
          TopicArn: request.topic,
          Subject: "tests",
          Message: text(request),
          Timestamp: new Date(request.at * 1000).toISOString(),
          SignatureVersion: "2",
          SigningCertURL: `https://sns.us-east-1.amazonaws.com/${request.id}.pem`,
        };
        const signed = names.map((name) => `${name}\n${message[name]}\n`).join("");
        message.Signature = crypto.sign("sha256", Buffer.from(signed), request.private).toString("base64");
        request.body = Buffer.from(JSON.stringify(message)).toString("base64");
        return [["Content-Type", "text/plain; charset=UTF-8"], ["x-amz-sns-message-type", "Notification"]];
      },
      verify: (request) =>
        new Promise((resolve) => {
          // The package would fetch the certificate.
          https.get = (_address, respond) => {
            const response = Object.assign(new EventEmitter(), { statusCode: 200 });
            process.nextTick(() => {
              respond(response);
              response.emit("data", request.secret);
              response.emit("end");
            });
            return new EventEmitter();
          };
          new Validator().validate(text(request), (error) => resolve(!error));
        }),
    };
  },
};

const loaded = {};

async function answer(request) {
  const preset = (loaded[request.preset] ??= await presets[request.preset]());
  if (request.do === "sign") {
    const headers = await preset.sign(request);
    return { headers, query: request.query ?? null, body: request.body };
  }
  try {
    return { valid: Boolean(await preset.verify(request)) };
  } catch (error) {
    // Each package has errors of its own for a signature that does not fit.
    return { valid: false, why: String(error) };
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const said = await answer(JSON.parse(line)).catch((error) => ({ error: String(error?.stack ?? error) }));
  process.stdout.write(`${JSON.stringify(said)}\n`);
}

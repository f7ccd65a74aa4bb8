//! Owns the requests: distinct, signed webhooks of about 1 KiB, the same for the same seed.

use hmac::{Hmac, Mac};
use sha2::Sha256;

pub const SECRET: &str = "figures-secret-of-32-bytes-in-all";
/// Enough that a body comes back only after more bytes than any compressor here looks back.
const POOL: usize = 16_384;

/// Keys that requests have in turn.
pub const KEYS: u64 = 100_000;

/// A pool of requests to one path.
pub struct Requests {
    ready: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Requests {
    /// Distinct bodies for a path.
    pub fn to(path: &str) -> Self {
        let mut random = Random(7);
        Self { ready: (0..POOL as u64).map(|number| signed(path, webhook(&mut random, number).into_bytes())).collect() }
    }

    /// One body of so many bytes, made of webhooks.
    pub fn large(path: &str, bytes: usize) -> Self {
        let mut random = Random(11);
        let mut body = String::from("[");
        while body.len() < bytes {
            body.push_str(&webhook(&mut random, body.len() as u64));
            body.push(',');
        }
        body.truncate(bytes - 1);
        body.push(' ');
        Self { ready: vec![signed(path, body.into_bytes())] }
    }

    /// Writes one request. Its number goes along as `X-Number`, to recognise it at the upstream, and one of [`KEYS`] keys
    /// as `X-Key`.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        let (head, body) = &self.ready[number as usize % self.ready.len()];
        out.extend_from_slice(head);
        out.extend_from_slice(format!("X-Number: {number}\r\nX-Key: {}\r\n\r\n", number % KEYS).as_bytes());
        out.extend_from_slice(body);
    }
}

fn signed(path: &str, body: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&body);
    let signature = hex::encode(mac.finalize().into_bytes());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: bench.example\r\nContent-Type: application/json\r\nUser-Agent: bench/1\r\n\
         X-Signature: {signature}\r\nContent-Length: {}\r\n",
        body.len()
    );
    (head.into_bytes(), body)
}

/// A webhook as payment providers send them: nested, repetitive in its keys, distinct in its values.
fn webhook(random: &mut Random, number: u64) -> String {
    const NAMES: [&str; 6] = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Leslie"];
    const TYPES: [&str; 4] = ["invoice.paid", "invoice.created", "charge.succeeded", "customer.updated"];
    const CURRENCIES: [&str; 3] = ["eur", "usd", "gbp"];
    let (name, other) = (random.of(&NAMES), random.of(&NAMES));
    format!(
        concat!(
            r#"{{"id":"evt_{:024x}","object":"event","api_version":"2025-09-30","created":{},"type":"{}","#,
            r#""livemode":{},"pending_webhooks":{},"request":{{"id":"req_{:014x}","idempotency_key":null}},"#,
            r#""data":{{"object":{{"id":"in_{:024x}","object":"invoice","amount_due":{},"amount_paid":{},"#,
            r#""currency":"{}","customer":"cus_{:014x}","customer_email":"{}.{}@example.com","#,
            r#""customer_name":"{} {}","hosted_invoice_url":"https://pay.example.com/i/acct_{:x}/{:x}","#,
            r#""lines":{{"object":"list","has_more":false,"total_count":1,"data":[{{"id":"il_{:024x}","amount":{},"#,
            r#""description":"{} x Plan {}","period":{{"start":{},"end":1770000000}}}}]}},"#,
            r#""footer":"Thank you, {}. Questions? billing-{}@example.com","payment_intent":"pi_{:024x}","#,
            r#""metadata":{{"order":"{}","region":"{}"}},"number":"{:08X}-{:04}","paid":true,"status":"paid"}}}}}}"#
        ),
        random.bits(96),
        1_760_000_000 + number,
        random.of(&TYPES),
        random.below(10) > 0,
        1 + random.below(3),
        random.bits(56),
        random.bits(96),
        100 + random.below(1_000_000),
        100 + random.below(1_000_000),
        random.of(&CURRENCIES),
        random.bits(56),
        name.to_ascii_lowercase(),
        1 + random.below(99_999),
        name,
        other,
        random.bits(60),
        random.bits(120),
        random.bits(96),
        100 + random.below(1_000_000),
        1 + random.below(9),
        random.of(&["A", "B", "C", "D", "E", "F"]),
        1_760_000_000 + random.below(9_999_999),
        name,
        1 + random.below(999),
        random.bits(96),
        1 + random.below(1_000_000_000),
        random.of(&["eu-1", "us-2", "ap-3"]),
        random.bits(32),
        1 + random.below(9_999),
    )
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed, and the same numbers each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub fn bits(&mut self, bits: u32) -> u128 {
        (u128::from(self.next()) << 64 | u128::from(self.next())) >> (128 - bits)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

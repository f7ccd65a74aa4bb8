//! Owns the files of the page: its style, its script, its icon; they are part of the program.
//!
//! Promises that a file's name holds a digest of it, so that browsers may keep it for ever.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{Page, ask::Ask, frame::Reply};
use crate::admin::{
    access::Role,
    api::{Refusal, typed},
};

pub(super) const PAGES: &[Page] = &[Page::get("/assets/{name}", file).role(Role::Nobody)];

/// How pages look.
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "css", "text/css; charset=utf-8", include_str!("assets/page.css")));

/// What keeps pages up to date while they are looked at.
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "js", "text/javascript; charset=utf-8", include_str!("assets/page.js")));

/// The mark in the browser's tab.
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

/// A file of the program.
pub(super) struct Asset {
    name: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(name: &str, ending: &str, kind: &'static str, text: &'static str) -> Self {
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        Self { name: format!("{name}-{digest:.16}.{ending}"), kind, text }
    }

    /// Where it is.
    pub(super) fn address(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

fn file(ask: &Ask) -> Result<Reply, Refusal> {
    let found = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == ask.variable(0));
    let asset = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"))?;
    let mut answer = typed(StatusCode::OK, asset.kind, Bytes::from_static(asset.text.as_bytes()));
    let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
    answer.headers_mut().insert(header::CACHE_CONTROL, keep);
    Ok(Reply::Other(Box::new(answer)))
}

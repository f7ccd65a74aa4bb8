//! Owns the keys of `[admin]`: the operators' socket, their address, and the tokens that are valid there.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    listen,
    reader::{Section, quoted, suggestion},
    server::{SOCKET_PATH_BYTES_MAX, positive, socket_address},
    settings::{AdminSettings, ListenSettings, StoreSettings, TokenRole, TokenSettings},
    source::check_name,
    verify::secrets,
};

/// A token with fewer bytes can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Names that a token may be limited to.
pub(super) struct Names<'a> {
    pub(super) sources: HashSet<&'a str>,
    /// Subscribers included.
    pub(super) upstreams: HashSet<String>,
}

/// The operators' socket, unless the configuration says otherwise.
pub(super) fn usual_socket(data: &Path) -> PathBuf {
    data.join("admin.sock")
}

/// `[admin]`. The socket stands in the data directory unless the configuration says otherwise.
pub(super) fn read(
    section: Section<'_>,
    store: &StoreSettings,
    listen: &[ListenSettings],
    names: &Names<'_>,
) -> AdminSettings {
    let socket = section.path("socket").unwrap_or_else(|| {
        let socket = usual_socket(&store.path);
        section.print("socket", &quoted(&socket.to_string_lossy()));
        socket
    });
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        section.problem("socket", format!("is longer than {SOCKET_PATH_BYTES_MAX} bytes, the limit for a Unix socket"));
    }
    let socket_group = section.text("socket_group").map(str::to_owned);
    let address = section.expanded("address").and_then(|text| section.accept("address", socket_address(&text)));
    let job_lag = positive(&section, "job_lag", "30s");
    let tls = listen::read_tls(&section);
    let failed_logins = section.pace("failed_logins", "10/m");
    let session_timeout = positive(&section, "session_timeout", "1h");
    let tokens: Vec<TokenSettings> = section
        .named_sections("token")
        .into_iter()
        .filter_map(|(name, token)| read_token(name, token, names))
        .collect();
    for (index, token) in tokens.iter().enumerate() {
        let is_same = |other: &&TokenSettings| other.secret.expose() == token.secret.expose();
        if let Some(other) = tokens.iter().take(index).find(is_same) {
            let message =
                format!("is the secret of the token {}, too; each needs its own, since it says who asks", other.name);
            section.cx.problem(&section.place, &format!("admin.token.{}.secret", token.name), message);
        }
    }
    if let Some(address) = address {
        section.print("address", &quoted(&address.to_string()));
        if address.port() != 0 && listen.iter().any(|listen| listen.address == address.to_string()) {
            section.problem("address", "is an address of [[listen]] too; senders and operators need one each");
        }
        if !address.ip().is_loopback() && tls.is_none() {
            let what = match tokens.is_empty() {
                true => "is not a loopback address: whoever reaches it reads the metrics",
                false => "is not a loopback address and has no tls: whoever can listen in reads tokens; add tls",
            };
            section.warn("address", what);
        }
    } else if !section.has("address") {
        for key in ["tls", "token"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, "has no effect without address; add address = \"127.0.0.1:9480\" or remove it");
        }
    }
    section.finish();
    let (tls, certificates) = tls.map(|tls| (only_http1(&tls.config), tls.certificates)).unzip();
    AdminSettings { socket, socket_group, address, job_lag, tls, certificates, failed_logins, session_timeout, tokens }
}

fn read_token(name: &str, section: Section<'_>, names: &Names<'_>) -> Option<TokenSettings> {
    check_name(&section, "", name);
    if !section.has("role") {
        section.problem("role", "is missing; write \"view\" or \"operate\"");
    }
    let roles = [("view", TokenRole::View), ("operate", TokenRole::Operate)];
    let role = section.has("role").then(|| section.choice("role", "view", &roles)).flatten();
    if !section.has("secret") {
        section.problem("secret", "is missing; name one, such as \"file:/etc/stagepost/admin.token\"");
    }
    if section.is_list("secret") {
        section.problem("secret", "takes one secret; write a second token for another");
    }
    let secret = secrets(&section, "secret").and_then(|secrets| secrets.into_iter().next());
    if let Some(secret) = secret.as_ref().filter(|secret| secret.expose().len() < TOKEN_BYTES_MIN) {
        let reference = secret.reference();
        section.problem(
            "secret",
            format!("{reference} is shorter than {TOKEN_BYTES_MIN} bytes and could be guessed; make one with openssl rand -hex 32"),
        );
    }
    let sources = limited(&section, "sources", "source", |name| names.sources.contains(name), &names.sources);
    let upstreams: HashSet<&str> = names.upstreams.iter().map(String::as_str).collect();
    let upstreams = limited(&section, "upstreams", "upstream", |name| upstreams.contains(name), &upstreams);
    section.finish();
    Some(TokenSettings { name: name.to_owned(), role: role?, secret: secret?, sources, upstreams })
}

fn limited(
    section: &Section<'_>,
    key: &'static str,
    what: &str,
    is_known: impl Fn(&str) -> bool,
    known: &HashSet<&str>,
) -> Option<Vec<Box<str>>> {
    let words = section.words(key)?;
    if words.is_empty() {
        section.problem(key, "is empty, so that the token could see nothing; name at least one, or remove it for all");
    }
    for (word, _) in words.iter().filter(|(word, _)| !is_known(word)) {
        section.problem(key, format!("no {what} is named \"{word}\"; {}", suggestion(word, known.iter().copied())));
    }
    section.print_words(key, words.iter().map(|(word, _)| *word));
    Some(words.into_iter().map(|(word, _)| word.into()).collect())
}

/// The operators' server speaks HTTP/1.
fn only_http1(config: &rustls::ServerConfig) -> std::sync::Arc<rustls::ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.into()
}

//! Owns who may do what over the admin interfaces: roles, the part of the configuration that a token is limited to, and
//! the tokens themselves.
//!
//! Promises that a presented token is compared with all tokens by SHA-256 in constant time, and that no token is kept:
//! only its digest. Deliberately absent: counting failures, which is `logins`'s.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::logins::LoginLimit;
use crate::log::entry::{Action, Command};

/// How long after its last use a session ends unless the configuration says otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3600);

/// What somebody may do, each role with what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing but what is open to all: probes and metrics.
    Nobody,
    /// See everything but credentials; change nothing.
    View,
    /// Everything.
    Operate,
}

impl Role {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::View => "view",
            Self::Operate => "operate",
        }
    }
}

/// The part of the configuration that somebody sees and touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    sources: Option<Vec<Box<str>>>,
    upstreams: Option<Vec<Box<str>>>,
}

/// All of it.
pub static WHOLE: Scope = Scope { sources: None, upstreams: None };

impl Scope {
    /// Events of these sources, deliveries to these upstreams; None stands for all.
    #[must_use]
    pub const fn new(sources: Option<Vec<Box<str>>>, upstreams: Option<Vec<Box<str>>>) -> Self {
        Self { sources, upstreams }
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == WHOLE
    }

    /// Whether there are sources that are left out.
    #[must_use]
    pub const fn limits_sources(&self) -> bool {
        self.sources.is_some()
    }

    /// Whether there are upstreams that are left out. What goes to no upstream is left out, too.
    #[must_use]
    pub const fn limits_upstreams(&self) -> bool {
        self.upstreams.is_some()
    }

    /// Whether events of this source are in it.
    #[must_use]
    pub fn takes_source(&self, name: &str) -> bool {
        self.sources.as_ref().is_none_or(|names| names.iter().any(|known| **known == *name))
    }

    /// Whether a refused request of this source is in it. It goes to no upstream.
    #[must_use]
    pub fn takes_kept(&self, source: &str) -> bool {
        self.takes_source(source) && !self.limits_upstreams()
    }

    /// Whether deliveries to this upstream are in it.
    #[must_use]
    pub fn takes_upstream(&self, name: &str) -> bool {
        self.upstreams.as_ref().is_none_or(|names| names.iter().any(|known| **known == *name))
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `uid 1000 (alice)`, `token ops`.
    pub name: Arc<str>,
    /// `socket`, or the client's address.
    pub origin: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub scope: Arc<Scope>,
}

impl Caller {
    /// Somebody on the operators' socket, whose mode is the lock.
    #[must_use]
    pub fn local(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), origin: "socket".into(), role: Role::Operate, scope: Arc::default() }
    }

    /// Whether it is somebody on the operators' socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        &*self.origin == "socket"
    }

    /// Somebody who has shown nothing.
    #[must_use]
    pub fn nobody(origin: impl Into<Arc<str>>) -> Self {
        Self { name: "nobody".into(), origin: origin.into(), role: Role::Nobody, scope: Arc::default() }
    }

    /// A command of this caller, for the log.
    #[must_use]
    pub fn command(&self, action: Action) -> Command {
        Command { origin: Some(self.origin.to_string()), ..Command::new(&*self.name, action) }
    }

    /// A command that changes no delivery: it is for the record.
    #[must_use]
    pub fn noted(&self, what: &str, targets: Vec<Box<str>>, count: u64) -> Command {
        self.command(Action::Noted { what: what.into(), targets, count })
    }
}

/// A token of the configuration.
pub struct Token {
    name: Arc<str>,
    role: Role,
    scope: Arc<Scope>,
    digest: [u8; 32],
}

impl Token {
    /// The token of this name with this secret, which is not kept.
    #[must_use]
    pub fn new(name: &str, role: Role, scope: Scope, secret: &[u8]) -> Self {
        Self { name: name.into(), role, scope: Arc::new(scope), digest: Sha256::digest(secret).into() }
    }

    /// Who shows it from there.
    #[must_use]
    pub fn caller(&self, origin: impl Into<Arc<str>>) -> Caller {
        let name = format!("token {}", self.name).into();
        Caller { name, origin: origin.into(), role: self.role, scope: self.scope.clone() }
    }
}

/// The tokens that are valid now.
pub struct Tokens {
    tokens: Vec<Token>,
    limit: LoginLimit,
    session_timeout: Duration,
}

impl Tokens {
    /// From the configuration.
    #[must_use]
    pub const fn new(tokens: Vec<Token>, limit: LoginLimit) -> Self {
        Self { tokens, limit, session_timeout: SESSION_TIMEOUT }
    }

    /// With sessions of the web page that end so long after their last use.
    #[must_use]
    pub fn with_session_timeout(self, session_timeout: Duration) -> Self {
        Self { session_timeout, ..self }
    }

    /// How long after its last use a session of the web page ends.
    #[must_use]
    pub const fn session_timeout(&self) -> Duration {
        self.session_timeout
    }

    /// Whether nobody can log in.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many wrong ones a client may show.
    #[must_use]
    pub const fn limit(&self) -> LoginLimit {
        self.limit
    }

    /// The token that was presented. Takes the same time whichever it is, and whether there is one.
    #[must_use]
    pub fn find(&self, presented: &[u8]) -> Option<&Token> {
        self.by_digest(&Sha256::digest(presented).into())
    }

    /// The token whose secret has this SHA-256, in constant time as well.
    #[must_use]
    pub fn by_digest(&self, digest: &[u8; 32]) -> Option<&Token> {
        let mut found = None;
        for token in &self.tokens {
            if bool::from(digest.as_slice().ct_eq(&token.digest)) {
                found = Some(token);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_whole_secret_and_by_nothing_else() {
        let limit = LoginLimit { count: 10, per: std::time::Duration::from_secs(60) };
        let tokens = vec![
            Token::new("ops", Role::Operate, Scope::default(), b"one secret"),
            Token::new("eyes", Role::View, Scope::new(Some(vec!["stripe".into()]), None), b"another"),
        ];
        let tokens = Tokens::new(tokens, limit);
        let caller = tokens.find(b"another").unwrap().caller("192.0.2.1");
        assert_eq!((&*caller.name, &*caller.origin, caller.role), ("token eyes", "192.0.2.1", Role::View));
        for wrong in [&b""[..], b"anothe", b"another ", b"one"] {
            assert!(tokens.find(wrong).is_none());
        }
        assert!(Tokens::new(Vec::new(), limit).find(b"").is_none());
    }

    #[test]
    fn a_scope_takes_what_it_names() {
        let scope = Scope::new(Some(vec!["stripe".into()]), None);
        assert!(scope.takes_source("stripe") && !scope.takes_source("github") && scope.takes_upstream("any"));
        assert!(WHOLE.takes_source("any") && WHOLE.is_whole() && !scope.is_whole());
    }
}

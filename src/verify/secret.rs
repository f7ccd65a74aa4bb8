//! Owns secrets: references to them as they stand in the configuration, and their values once read.
//!
//! Promises that a value has no `Debug`, `Display` or `Serialize`, is zeroized when dropped, and that neither an
//! error nor a reference ever contains one: a text that is no reference may be a pasted secret and is not repeated.
//! Values are read when a configuration is loaded, never while a request waits.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

/// The largest secret file, in bytes: more is surely the wrong file.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where systemd puts the credentials of a service.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A secret: what the configuration called it, and its value.
#[derive(Clone)]
pub struct Secret {
    reference: Arc<str>,
    value: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// A secret from a value that is already there.
    #[must_use]
    pub fn new(reference: &str, value: Vec<u8>) -> Self {
        Self { reference: reference.into(), value: Zeroizing::new(value) }
    }

    /// What the configuration calls it (`env:NAME`; `literal:…` without the value). Fit for diagnostics.
    #[must_use]
    pub fn reference(&self) -> &Arc<str> {
        &self.reference
    }

    /// The value. Whoever calls this must not keep a copy that outlives its use.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.value
    }
}

/// A parsed reference to a secret. Not yet read.
#[derive(Clone)]
pub struct SecretRef(Kind);

#[derive(Clone)]
enum Kind {
    Env(Box<str>),
    File(PathBuf),
    Credential(Box<str>),
    Literal(Zeroizing<Vec<u8>>),
}

/// Why there is no secret. None of the messages contains a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No known prefix. The text is not repeated, it may be a pasted secret.
    #[error("this is not a reference to a secret: write env:NAME, file:/path, credential:NAME or literal:VALUE")]
    NotAReference,
    /// The name of an environment variable is not one.
    #[error("env: needs the name of a variable, made of letters, digits and _ and not beginning with a digit")]
    BadVariable,
    /// The name of a credential is not one.
    #[error("credential: needs the name of a systemd credential, without slashes")]
    BadCredential,
    /// `file:` without a path.
    #[error("file: needs a path, for example file:/etc/stagepost/secret")]
    NoPath,
    /// The variable is not set.
    #[error("the environment variable {0} is not set: set it, or take the secret from file: or credential:")]
    Unset(Box<str>),
    /// Not started by systemd with credentials.
    #[error("credential:{0} can't be read because $CREDENTIALS_DIRECTORY is not set: add LoadCredential= to the unit")]
    NoCredentials(Box<str>),
    /// The secret is there and empty.
    #[error("the secret {0} is empty: an empty secret protects nothing")]
    Empty(Arc<str>),
    /// The file is too large to be a secret.
    #[error("the secret {0} is larger than {SECRET_BYTES_MAX} bytes: check that it is the right file")]
    TooLarge(Arc<str>),
    /// A header needs text.
    #[error("the secret {0} is not UTF-8 text and can't stand in a header")]
    NotText(Arc<str>),
    /// The file can't be read.
    #[error("reading the secret {reference} from {}", path.display())]
    Unreadable {
        /// The reference.
        reference: Arc<str>,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SecretRef {
    /// Parses `env:NAME`, `file:/path`, `credential:NAME` or `literal:VALUE`.
    ///
    /// # Errors
    /// [`SecretError`] if it is none of these or what follows the colon is no name.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let (scheme, rest) = text.split_once(':').ok_or(SecretError::NotAReference)?;
        let kind = match scheme {
            "env" if is_variable_name(rest) => Kind::Env(rest.into()),
            "env" => return Err(SecretError::BadVariable),
            "file" if rest.is_empty() => return Err(SecretError::NoPath),
            "file" => Kind::File(rest.into()),
            "credential" if is_credential_name(rest) => Kind::Credential(rest.into()),
            "credential" => return Err(SecretError::BadCredential),
            "literal" => Kind::Literal(Zeroizing::new(rest.as_bytes().to_vec())),
            _ => return Err(SecretError::NotAReference),
        };
        Ok(Self(kind))
    }

    /// The reference as it may be shown: as written, but `literal:…` without its value.
    #[must_use]
    pub fn shown(&self) -> Arc<str> {
        match &self.0 {
            Kind::Env(name) => format!("env:{name}").into(),
            Kind::File(path) => format!("file:{}", path.display()).into(),
            Kind::Credential(name) => format!("credential:{name}").into(),
            Kind::Literal(_) => "literal:…".into(),
        }
    }

    /// Reads the secret. One trailing newline (`\n` or `\r\n`) is removed, except from a literal. A relative path
    /// starts at `base_dir`. Blocks on the file system; at most [`SECRET_BYTES_MAX`] bytes are read.
    ///
    /// # Errors
    /// [`SecretError`] if it is unset, unreadable, too large or empty.
    pub fn resolve(&self, base_dir: &Path) -> Result<Secret, SecretError> {
        self.resolve_in(base_dir, environment)
    }

    fn resolve_in(&self, base_dir: &Path, env: impl Fn(&str) -> Option<OsString>) -> Result<Secret, SecretError> {
        let reference = self.shown();
        let mut value = match &self.0 {
            Kind::Env(name) => Zeroizing::new(env(name).ok_or_else(|| SecretError::Unset(name.clone()))?.into_vec()),
            Kind::File(path) => read(&reference, base_dir.join(path))?,
            Kind::Credential(name) => {
                let directory = env(CREDENTIALS_DIRECTORY).ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                read(&reference, Path::new(&directory).join(&**name))?
            }
            Kind::Literal(value) => value.clone(),
        };
        if !matches!(self.0, Kind::Literal(_)) && value.last() == Some(&b'\n') {
            value.pop();
            if value.last() == Some(&b'\r') {
                value.pop();
            }
        }
        if value.is_empty() {
            return Err(SecretError::Empty(reference));
        }
        Ok(Secret { reference, value })
    }

    /// What an operator should hear about this reference: a literal, or a file that everybody may read. A file
    /// that can't be looked at gives no warning here; reading it gives the error.
    #[must_use]
    pub fn warnings(&self, base_dir: &Path) -> Vec<String> {
        match &self.0 {
            Kind::Literal(_) => {
                vec!["a literal secret stands in the configuration: use env:, file: or credential:".to_owned()]
            }
            Kind::File(path) => {
                let path = base_dir.join(path);
                let open = path.metadata().is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
                let shown = path.display();
                if open {
                    vec![format!("every user may read the secret file {shown}: chmod o-r {shown}")]
                } else {
                    vec![]
                }
            }
            Kind::Env(_) | Kind::Credential(_) => vec![],
        }
    }

    /// The file a `file:` reference names, as written.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Kind::File(path) => Some(path),
            _ => None,
        }
    }
}

/// Resolves a header value that may hold a secret: if the whole text is a reference, or its last word after a space
/// is one (`"Bearer env:TOKEN"`), the secret stands in its place; any other text is taken literally.
/// (`"literal:file:x"` writes a value that looks like a reference.)
///
/// # Errors
/// [`SecretError`] if it is a reference that can't be resolved, or whose value is not UTF-8.
pub fn resolve_embedded(text: &str, base_dir: &Path) -> Result<Zeroizing<String>, SecretError> {
    resolve_embedded_in(text, base_dir, environment)
}

fn resolve_embedded_in(
    text: &str,
    base_dir: &Path,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Zeroizing<String>, SecretError> {
    let Some((before, reference)) = split_embedded(text) else {
        return Ok(Zeroizing::new(text.to_owned()));
    };
    let secret = SecretRef::parse(reference)?.resolve_in(base_dir, env)?;
    let value = std::str::from_utf8(secret.expose()).map_err(|_| SecretError::NotText(secret.reference.clone()))?;
    // Sized once, so that growing leaves no copy of the secret behind.
    let mut whole = Zeroizing::new(String::with_capacity(before.len().saturating_add(value.len())));
    whole.push_str(before);
    whole.push_str(value);
    Ok(whole)
}

/// The file that a secret reference or a header value with an embedded one is read from, as written (a relative path
/// starts at the configuration file), so that a change of it can be noticed.
#[must_use]
pub fn references_files(text: &str) -> Option<PathBuf> {
    let (_, reference) = split_embedded(text)?;
    SecretRef::parse(reference).ok()?.file().map(Path::to_owned)
}

/// What stands before the reference (with the space), and the reference; None if there is none.
fn split_embedded(text: &str) -> Option<(&str, &str)> {
    if looks_like_reference(text) {
        return Some(("", text));
    }
    let space = text.rfind(' ')?;
    let (before, word) = text.split_at_checked(space.checked_add(1)?)?;
    looks_like_reference(word).then_some((before, word))
}

fn looks_like_reference(text: &str) -> bool {
    ["env:", "file:", "credential:", "literal:"].iter().any(|scheme| text.starts_with(scheme))
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_credential_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn read(reference: &Arc<str>, path: PathBuf) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    // Room for the largest secret from the start, so that growing leaves no copy behind.
    let room = usize::try_from(SECRET_BYTES_MAX.saturating_add(1)).unwrap_or(usize::MAX);
    let mut value = Zeroizing::new(Vec::with_capacity(room));
    let read = File::open(&path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value));
    match read {
        Ok(length) if length as u64 > SECRET_BYTES_MAX => Err(SecretError::TooLarge(reference.clone())),
        Ok(length) => Ok(Zeroizing::new(value.get(..length).unwrap_or_default().to_vec())),
        Err(source) => Err(SecretError::Unreadable { reference: reference.clone(), path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn no_env(_: &str) -> Option<OsString> {
        None
    }

    fn refused<T>(result: Result<T, SecretError>) -> String {
        result.err().expect("it should be refused").to_string()
    }

    #[test]
    fn a_file_loses_one_trailing_newline_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let cases: [(&[u8], &[u8]); 5] = [
            (b"abc", b"abc"),
            (b"abc\n", b"abc"),
            (b"abc\r\n", b"abc"),
            (b"abc\n\n", b"abc\n"),
            (b" a\xff\r", b" a\xff\r"),
        ];
        for (written, expected) in cases {
            fs::write(dir.path().join("s"), written).unwrap();
            let secret = SecretRef::parse("file:s").ok().unwrap().resolve(dir.path()).ok().unwrap();
            assert_eq!((secret.expose(), &**secret.reference()), (expected, "file:s"));
        }
    }

    #[test]
    fn an_empty_missing_or_huge_secret_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("empty"), b"\n").unwrap();
        fs::write(dir.path().join("huge"), vec![b'x'; 70_000]).unwrap();
        let resolve = |text| refused(SecretRef::parse(text).ok().unwrap().resolve_in(dir.path(), no_env));
        assert!(resolve("file:empty").contains("file:empty is empty"));
        assert!(resolve("literal:").contains("is empty"));
        assert!(resolve("file:huge").contains("larger than 65536 bytes"));
        assert!(resolve("file:absent").contains("file:absent"));
        assert!(resolve("env:NOT_THERE").contains("variable NOT_THERE is not set"));
        assert!(resolve("credential:hook").contains("LoadCredential="));
    }

    #[test]
    fn what_is_no_reference_is_refused_and_never_repeated() {
        for text in
            ["hunter2hunter2", "", "evn:hunter2", "env:", "env:1A", "env:hunter2-x", "file:", "credential:../hunter2"]
        {
            let message = refused(SecretRef::parse(text));
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn the_environment_and_credentials_are_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hook"), "from systemd\n").unwrap();
        let env = |name: &str| match name {
            "A" => Some("value\n".into()),
            CREDENTIALS_DIRECTORY => Some(dir.path().as_os_str().to_owned()),
            _ => None,
        };
        let value =
            |text| SecretRef::parse(text).ok().unwrap().resolve_in(Path::new("/"), env).ok().unwrap().expose().to_vec();
        assert_eq!(value("env:A"), b"value");
        assert_eq!(value("credential:hook"), b"from systemd");
        assert_eq!(value("literal:a:b\n"), b"a:b\n");
    }

    #[test]
    fn literals_and_world_readable_files_warn_and_a_literal_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "x").unwrap();
        let warnings = |text| SecretRef::parse(text).ok().unwrap().warnings(dir.path()).len();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!((warnings("file:s"), warnings("literal:x"), warnings("env:X")), (1, 1, 0));
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(warnings("file:s"), 0);
        assert_eq!(&*SecretRef::parse("literal:x").ok().unwrap().shown(), "literal:…");
    }

    #[test]
    fn a_reference_is_found_in_a_header_value_as_the_whole_or_the_last_word() {
        let env = |name: &str| (name == "TOKEN").then(|| "t0k".into());
        let cases = [
            ("env:TOKEN", "t0k"),
            ("Bearer env:TOKEN", "Bearer t0k"),
            ("Key id=1 env:TOKEN", "Key id=1 t0k"),
            ("env and more", "env and more"),
            ("see http://x/env:TOKEN", "see http://x/env:TOKEN"),
            ("literal:env:TOKEN", "env:TOKEN"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(**resolve_embedded_in(text, Path::new("/"), env).ok().unwrap(), *expected, "{text}");
        }
        assert!(refused(resolve_embedded_in("Bearer env:OTHER", Path::new("/"), env)).contains("OTHER"));
    }

    #[test]
    fn the_files_behind_references_are_known() {
        assert_eq!(references_files("file:/etc/s"), Some("/etc/s".into()));
        assert_eq!(references_files("Bearer file:token"), Some("token".into()));
        assert_eq!(references_files("env:X"), None);
        assert_eq!(references_files("a file"), None);
    }
}

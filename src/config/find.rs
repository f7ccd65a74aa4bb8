//! Owns where the configuration file is looked for.

use std::path::{Path, PathBuf};

use super::interpolate::Env;

/// Looked for last.
const SYSTEM_WIDE: &str = "/etc/stagepost/stagepost.toml";

/// Nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration found: neither --config nor $STAGEPOST_CONFIG is set, and there is no ./stagepost.toml and no \
     {SYSTEM_WIDE}; name one, or start with `stagepost run --listen ADDR --to URL`"
)]
pub struct NotFound;

/// The configuration file: `--config`, else `$STAGEPOST_CONFIG`, else `./stagepost.toml`, else
/// `/etc/stagepost/stagepost.toml`. The first two are taken even if there is no such file, so that loading says so.
///
/// # Errors
/// [`NotFound`].
pub fn find(explicit: Option<&Path>, env: Env<'_>) -> Result<PathBuf, NotFound> {
    find_among(explicit, env, &[Path::new("stagepost.toml"), Path::new(SYSTEM_WIDE)])
}

fn find_among(explicit: Option<&Path>, env: Env<'_>, usual: &[&Path]) -> Result<PathBuf, NotFound> {
    let named = explicit.map(Path::to_owned);
    let named = named.or_else(|| env("STAGEPOST_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
    named.or_else(|| usual.iter().find(|path| path.exists()).map(|path| path.to_path_buf())).ok_or(NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_comes_before_the_environment_and_that_before_the_usual_places() {
        let directory = tempfile::tempdir().unwrap();
        let (here, system) = (directory.path().join("stagepost.toml"), directory.path().join("system.toml"));
        let usual = [here.as_path(), system.as_path()];
        let (set, unset) = (|_: &str| Some("/from/env".to_owned()), |_: &str| None);
        assert_eq!(find_among(Some(Path::new("/arg")), &set, &usual), Ok("/arg".into()));
        assert_eq!(find_among(None, &set, &usual), Ok("/from/env".into()));
        assert_eq!(find_among(None, &unset, &usual), Err(NotFound));
        std::fs::write(&system, "").unwrap();
        assert_eq!(find_among(None, &unset, &usual), Ok(system.clone()));
        std::fs::write(&here, "").unwrap();
        assert_eq!(find_among(None, &unset, &usual), Ok(here.clone()));
    }
}

//! Owns `${NAME}` and `${NAME:-default}` in the values that allow them.
//!
//! The environment is an argument. A default is taken as it stands; it can't hold another reference.

/// How the environment is asked.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces each reference; unset without a default is an error.
pub(super) fn interpolate(text: &str, env: Env<'_>) -> Result<String, String> {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, tail) =
            after.split_once('}').ok_or_else(|| format!("\"${{{after}\" has no closing brace; write \"${{NAME}}\""))?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(format!("\"${{{inside}}}\" names no environment variable; write \"${{NAME}}\""));
        }
        // As in a shell, `:-` takes the default for an empty variable too.
        let value = env(name).filter(|value| default.is_none() || !value.is_empty());
        let value = value.or_else(|| default.map(str::to_owned)).ok_or_else(|| {
            format!("the environment variable {name} is not set; set it or write \"${{{name}:-default}}\"")
        })?;
        done.push_str(before);
        done.push_str(&value);
        rest = tail;
    }
    done.push_str(rest);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_the_unset_are_refused() {
        let env = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("http://${HOST}:${PORT:-80}/x", Ok("http://db:80/x")),
            ("${HOST:-other}", Ok("db")),
            ("${EMPTY}", Ok("")),
            ("${EMPTY:-full}", Ok("full")),
            ("${NONE:-}", Ok("")),
            ("$HOST {tenant}", Ok("$HOST {tenant}")),
            ("${NONE}", Err("the environment variable NONE is not set; set it or write \"${NONE:-default}\"")),
            ("${HOST", Err("\"${HOST\" has no closing brace; write \"${NAME}\"")),
            ("${A-B}", Err("\"${A-B}\" names no environment variable; write \"${NAME}\"")),
        ] {
            assert_eq!(interpolate(text, &env).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}

//! Owns `stagepost init`: a configuration to begin with, what to do at the provider, and waiting for the first event.
//!
//! Promises that a file that is there is left alone without `--force`. What it writes and prints comes from the pages and
//! files of the documentation (see `recipes`). Deliberately absent: starting an instance; it says how, and watches.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Exit, Failure, Host, Terminal,
    args::{InitArgs, Where},
    client::Client,
    instance::Instance,
    print::escaped,
    recipes::{self, Recipe, UPSTREAM},
};
use crate::admin::wire::{Filters, Line, Query, Refused, Reply};

/// How often the instance is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn init(args: &InitArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let recipe = recipes::find(&args.preset).ok_or_else(|| unknown(&args.preset))?;
    let text = configuration(recipe, args)?;
    write(&args.config, &text, args.force)?;
    let file = escaped(&args.config.display().to_string());
    writeln!(terminal.out, "Wrote {file}.\n\nAt the provider:\n")?;
    let shown_url = args.public_url.clone().unwrap_or_else(|| {
        recipe.example_url().replace(&recipe.path(), args.path.as_deref().unwrap_or(&recipe.path()))
    });
    writeln!(terminal.out, "{}", escaped_page(&recipe.steps().replace(&recipe.example_url(), &shown_url)))?;
    let secrets = names_of_secrets(&text);
    if !secrets.is_empty() {
        writeln!(terminal.out, "\nIn the environment of Stagepost, before it starts: {}", secrets.join(", "))?;
    }
    writeln!(terminal.out)?;
    for line in text.lines().filter(|line| line.contains("# yours:")) {
        if !(line.starts_with("public_url") && args.public_url.is_some()) {
            writeln!(terminal.out, "Yours to set in {file}: {}", escaped(line.trim()))?;
        }
    }
    writeln!(terminal.out, "Then: stagepost check --config {file} && stagepost run --config {file}")?;
    if args.no_wait {
        return Ok(Exit::Done);
    }
    wait(args, recipe, host, terminal)
}

fn unknown(name: &str) -> Failure {
    let near = recipes::ALL
        .iter()
        .map(|recipe| (strsim::damerau_levenshtein(name, recipe.name), recipe.name))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let names: Vec<&str> = recipes::ALL.iter().map(|recipe| recipe.name).collect();
    Failure::usage(match near {
        Some((_, near)) => format!("no provider is called {name:?}; did you mean {near:?}?"),
        None => format!("no provider is called {name:?}; there are: {}", names.join(", ")),
    })
}

/// The configuration of the recipe with what the command line says.
fn configuration(recipe: &Recipe, args: &InitArgs) -> Result<String, Failure> {
    let fits = |option: &str, text: &str| match text {
        _ if text.chars().any(|letter| letter.is_control() || matches!(letter, '"' | '\\' | ' ')) => {
            Err(Failure::usage(format!("{option} {text:?} has a character that can't stand there")))
        }
        _ => Ok(()),
    };
    fits("--to", &args.to)?;
    let (own_path, own_url) = (recipe.path(), recipe.example_url());
    let path = args.path.clone().unwrap_or_else(|| own_path.clone());
    fits("--path", &path)?;
    if !path.starts_with('/') {
        return Err(Failure::usage(format!("--path {path:?} must begin with /")));
    }
    if recipe.config.contains("public_url") && args.public_url.is_none() {
        let title = recipe.page.lines().next().unwrap_or_default().trim_start_matches("# ");
        let message = format!("{title} signs the URL: give --public-url, the whole URL as it will be registered there");
        return Err(Failure::usage(message));
    }
    let url = match &args.public_url {
        Some(url) => {
            fits("--public-url", url)?;
            url.clone()
        }
        None => own_url.replace(&own_path, &path),
    };
    Ok(recipe
        .config
        .replace(&own_url, &url)
        .replace(&format!("path = \"{own_path}\""), &format!("path = \"{path}\""))
        .replace(UPSTREAM, &format!("\"{}\"", args.to)))
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let opened = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} is there already and was left alone: name another file with --config, or replace it with --force",
            path.display()
        )),
        _ => Failure::new(Exit::Io, format!("writing {}: {error}", path.display())),
    })
}

/// The variables that hold secrets.
fn names_of_secrets(text: &str) -> Vec<&str> {
    text.split("\"env:").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Markdown for a terminal: without the marks of code.
fn escaped_page(text: &str) -> String {
    super::print::escaped_lines(&text.replace('`', ""))
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    absent: bool,
    running: bool,
    challenges: u64,
    refused: u64,
    event: Option<String>,
}

fn wait(args: &InitArgs, recipe: &Recipe, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let socket = socket(&args.config, host, terminal)?;
    let client = Client::new(&socket)?;
    writeln!(terminal.out, "\nWaiting for the first event and its delivery; Ctrl-C ends.")?;
    let mut seen = Seen::default();
    loop {
        match look(&client, recipe.name, &mut seen, terminal) {
            Ok(true) => return Ok(Exit::Done),
            Ok(false) => {}
            Err(why) if matches!(why.exit, Exit::NotRunning | Exit::Io) => {
                if !std::mem::replace(&mut seen.absent, true) {
                    let file = escaped(&args.config.display().to_string());
                    writeln!(terminal.out, "No instance is running yet: stagepost run --config {file}")?;
                }
            }
            Err(why) => return Err(why),
        }
        terminal.out.flush()?;
        client.pause(ASK_EVERY);
    }
}

/// The socket of the instance that this configuration makes. It may lack secrets here that the instance will have.
fn socket(config: &Path, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<PathBuf, Failure> {
    if let Err(why) = host.check(Some(config)) {
        for line in why.message.lines() {
            writeln!(terminal.err, "still missing here: {}", escaped(line))?;
        }
    }
    let place = Where { config: Some(config.to_owned()), ..Where::default() };
    Ok(Instance::find(&place, host)?.socket)
}

/// One look at the instance; whether an event was delivered.
fn look(client: &Client<'_>, source: &str, seen: &mut Seen, terminal: &mut Terminal<'_>) -> Result<bool, Failure> {
    let metrics = client.get_bytes("/metrics")?;
    if !std::mem::replace(&mut seen.running, true) {
        writeln!(terminal.out, "The instance is running.")?;
    }
    let wanted = format!("stagepost_requests_total{{source=\"{source}\",result=\"challenge\"}} ");
    let challenges = String::from_utf8_lossy(&metrics)
        .lines()
        .find_map(|line| line.strip_prefix(&wanted)?.parse::<u64>().ok())
        .unwrap_or_default();
    if challenges > seen.challenges {
        writeln!(terminal.out, "A challenge was answered.")?;
    }
    seen.challenges = challenges;
    let refused: Vec<Refused> = client.get(&format!("/v1/refused?after={}", seen.refused))?;
    seen.refused = refused.last().map_or(seen.refused, |last| last.number);
    for one in refused.iter().filter(|one| one.source.as_deref() == Some(source)) {
        writeln!(terminal.out, "A request was refused: {}", escaped(&one.reason))?;
    }
    let filters = Filters { source: Some(source.to_owned()), ..Filters::default() };
    let mut lines: Vec<Line> = Vec::new();
    client.lines("/v1/log", &Query { filters, limit: 100, follow: false }, &mut |reply: Reply| {
        if let Reply::Event(line) = reply {
            lines.push(line);
        }
        Ok(())
    })?;
    // Newest first: the last one is the first that came.
    if let (None, Some(first)) = (&seen.event, lines.last()) {
        let kind = first.event_type.as_deref().map_or(String::new(), |kind| format!(", type {}", escaped(kind)));
        writeln!(terminal.out, "The first event came: {}{kind}", escaped(&first.id))?;
        seen.event = Some(first.id.clone());
    }
    let delivered = lines.iter().any(|line| line.state == "delivered");
    if delivered {
        writeln!(terminal.out, "It was delivered. From here on: stagepost status, stagepost log -f")?;
    }
    Ok(delivered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(preset: &str) -> InitArgs {
        InitArgs {
            preset: preset.to_owned(),
            to: "http://127.0.0.1:9000".to_owned(),
            path: None,
            public_url: None,
            config: "stagepost.toml".into(),
            force: false,
            no_wait: true,
        }
    }

    #[test]
    fn what_the_command_line_says_replaces_what_the_recipe_has() {
        let mut asked = args("github");
        asked.path = Some("/in".to_owned());
        let text = configuration(recipes::find("github").unwrap(), &asked).unwrap();
        assert!(text.contains("path = \"/in\"") && text.contains("url = \"http://127.0.0.1:9000\""), "{text}");
        assert_eq!(names_of_secrets(&text), ["GITHUB_SECRET"]);
    }

    #[test]
    fn a_provider_that_signs_the_url_needs_to_know_it() {
        let square = recipes::find("square").unwrap();
        assert!(configuration(square, &args("square")).unwrap_err().message.contains("--public-url"));
        let mut asked = args("square");
        asked.public_url = Some("https://a.example/b".to_owned());
        assert!(configuration(square, &asked).unwrap().contains("public_url = \"https://a.example/b\""));
    }

    #[test]
    fn what_can_not_stand_in_the_file_is_refused() {
        for to in ["http://a\"b", "http://a b", "http://a\\b", "http://a\nb"] {
            let asked = InitArgs { to: to.to_owned(), ..args("github") };
            assert!(configuration(recipes::find("github").unwrap(), &asked).is_err(), "{to:?}");
        }
        assert!(unknown("gihub").message.contains("did you mean \"github\""));
        assert!(unknown("something-else").message.contains("stripe"));
    }
}

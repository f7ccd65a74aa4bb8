//! Owns what is generated from the grammar: completions for shells, and manual pages.
//!
//! Promises that they say what `--help` says, since both are made of the same definitions.

use std::{fs, path::Path};

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell as Generator, generate};
use clap_mangen::Man;

use super::{
    Exit, Failure, Terminal,
    args::{Cli, CompletionsArgs, ManArgs, Shell},
};

pub(super) fn completions(args: &CompletionsArgs, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let generator = match args.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "stagepost", &mut script);
    terminal.out.write_all(&script)?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut whole = Cli::command();
    whole.build();
    let Some(directory) = &args.directory else {
        terminal.out.write_all(&page(whole)?)?;
        return Ok(Exit::Done);
    };
    fs::create_dir_all(directory)?;
    let written = pages(&whole, "stagepost", directory)?;
    writeln!(terminal.out, "{written} pages written")?;
    Ok(Exit::Done)
}

/// Writes the page of a command and those of its subcommands; how many that were.
fn pages(command: &Command, name: &str, directory: &Path) -> Result<usize, Failure> {
    let mut written = 1;
    for inner in command.get_subcommands() {
        written += pages(inner, &format!("{name}-{}", inner.get_name()), directory)?;
    }
    fs::write(directory.join(format!("{name}.1")), page(command.clone())?)?;
    Ok(written)
}

fn page(command: Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    Man::new(command).manual("Stagepost").render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Timestamp;

    fn told(run: impl FnOnce(&mut Terminal<'_>) -> Result<Exit, Failure>) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut terminal = Terminal {
            out: &mut out,
            err: &mut err,
            input: &mut &b""[..],
            out_is_terminal: false,
            in_is_terminal: false,
            now: Timestamp::from_millis(0),
        };
        assert_eq!(run(&mut terminal), Ok(Exit::Done));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_shell_gets_completions_that_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = told(|terminal| completions(&CompletionsArgs { shell }, terminal));
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let args = ManArgs { directory: Some(directory.path().to_owned()) };
        told(|terminal| man(&args, terminal));
        for command in Cli::command().get_subcommands() {
            let path = directory.path().join(format!("stagepost-{}.1", command.get_name()));
            let page = fs::read_to_string(&path).unwrap();
            assert!(page.contains("Examples:"), "{}", path.display());
        }
        assert!(directory.path().join("stagepost-quarantine-recheck.1").exists());
        let whole = told(|terminal| man(&ManArgs { directory: None }, terminal));
        assert_eq!(whole, fs::read_to_string(directory.path().join("stagepost.1")).unwrap());
    }
}

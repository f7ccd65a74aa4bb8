//! Owns `stagepost audit`: what operators did, of a running instance and of a stopped one.

use clap::Args;

use super::{
    Exit, Failure, Host, Terminal,
    args::Where,
    client::{Client, query},
    instance::Instance,
    print::{escaped, table},
    units,
};
use crate::admin::{
    AuditFilter, Seq, audited,
    wire::{Audited, AuditedPage},
};

/// Asked for at once.
const PAGE: u64 = 500;

/// `stagepost audit`.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// Done then or later
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Done before
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// By whom: a part of the name
    #[arg(long, value_name = "TEXT")]
    pub(super) actor: Option<String>,
    /// What was done, in a word
    #[arg(long, value_name = "WORD")]
    pub(super) action: Option<String>,
    /// How many
    #[arg(short = 'n', value_name = "N", default_value_t = 50)]
    pub(super) count: u64,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn audit(args: &AuditArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let wanted = AuditFilter {
        since: units::moment("since", args.since.as_deref(), terminal.now)?,
        until: units::moment("until", args.until.as_deref(), terminal.now)?,
        actor: args.actor.clone(),
        action: args.action.clone(),
    };
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let (mut left, mut after, mut exit) = (args.count, None, Exit::Done);
    let mut entries: Vec<Audited> = Vec::new();
    while left > 0 {
        let page: AuditedPage = match client.get(&path(&wanted, left.min(PAGE), after.as_deref())) {
            Err(why) if why.exit == Exit::NotRunning => {
                let reads = instance.offline(host, why)?;
                let before = after.as_deref().and_then(|after| Seq::from_str_radix(after, 16).ok());
                let limit = usize::try_from(left).unwrap_or(usize::MAX);
                audited(&*reads, &wanted, before, limit).map_err(|error| Failure::new(Exit::Io, error.to_string()))?
            }
            page => page?,
        };
        for note in &page.notes {
            exit = exit.noted(note);
            writeln!(terminal.err, "stagepost: {}", escaped(note))?;
        }
        left = left.saturating_sub(page.entries.len() as u64);
        entries.extend(page.entries);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if args.json {
        for one in &entries {
            let json = serde_json::to_string(one).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        return Ok(exit);
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    table(terminal.out, &["AT", "ACTOR", "FROM", "ACTION", "COUNT", "WHAT", "REASON"], &rows)?;
    Ok(exit)
}

fn path(wanted: &AuditFilter, limit: u64, after: Option<&str>) -> String {
    let limit = limit.to_string();
    let time = |time: Option<crate::admin::Timestamp>| time.map(|time| time.to_string());
    query(
        "/v1/audit",
        &[
            ("since", time(wanted.since).as_deref()),
            ("until", time(wanted.until).as_deref()),
            ("actor", wanted.actor.as_deref()),
            ("action", wanted.action.as_deref()),
            ("limit", Some(&limit)),
            ("after", after),
        ],
    )
}

fn row(one: &Audited) -> Vec<String> {
    // What was asked for often names what it was done to.
    let names_all = |asked: &&String| !one.targets.iter().any(|target| asked.contains(&**target));
    let asked = one.asked.as_ref().filter(names_all);
    let what = one.targets.iter().chain(asked).cloned().collect::<Vec<_>>().join(" ");
    let until = one.until.map(|until| format!("until {until}"));
    let reason = one.reason.iter().cloned().chain(until).collect::<Vec<_>>().join(", ");
    vec![
        one.at.to_string(),
        escaped(&one.actor),
        escaped(one.origin.as_deref().unwrap_or("-")),
        escaped(&one.action),
        one.count.to_string(),
        escaped(&what),
        escaped(&reason),
    ]
}

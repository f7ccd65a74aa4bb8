//! Owns `stagepost keys`: which keys are blocked, by which event, and how many wait.

use super::{
    Exit, Failure, Host, Terminal,
    args::KeysArgs,
    client::{Client, query},
    instance::Instance,
    print::{escaped, table},
};
use crate::admin::wire::BlockedKey;

pub(super) fn keys(args: &KeysArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let path = query("/v1/keys", &[("upstream", args.upstream.as_deref())]);
    let keys: Vec<BlockedKey> = Client::new(&instance.socket)?.get(&path)?;
    if args.json {
        for key in &keys {
            let json = serde_json::to_string(key).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        return Ok(Exit::Done);
    }
    if keys.is_empty() {
        writeln!(terminal.out, "no key is blocked")?;
        return Ok(Exit::Done);
    }
    let row = |key: &BlockedKey| {
        let next = key.due_at.map(|due| format!("due at {due}"));
        vec![
            escaped(&key.upstream),
            escaped(key.key.as_deref().unwrap_or("?")),
            key.waiting.to_string(),
            escaped(&key.event),
            key.since.to_string(),
            key.state.clone(),
            key.attempts.to_string(),
            escaped(&key.reason.clone().or(next).unwrap_or_default()),
        ]
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let head = ["UPSTREAM", "KEY", "WAITING", "BEHIND", "SINCE", "STATE", "ATTEMPTS", "WHY"];
    table(terminal.out, &head, &rows)?;
    Ok(Exit::Done)
}

//! Owns `stagepost alerts`: what stands, and trying a destination.

use super::{
    Exit, Failure, Host, Terminal,
    args::{AlertsArgs, AlertsVerb, JsonArgs, TestAlertArgs},
    client::Client,
    instance::Instance,
    print::{escaped, table},
};
use crate::admin::wire::{Alert, TestAlert, TestedAlert};

pub(super) fn alerts(args: &AlertsArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    match &args.verb {
        None => list(&args.list, host, terminal),
        Some(AlertsVerb::List(args)) => list(args, host, terminal),
        Some(AlertsVerb::Test(args)) => test(args, host, terminal),
    }
}

fn list(args: &JsonArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let alerts: Vec<Alert> = Client::new(&instance.socket)?.get("/v1/alerts")?;
    if args.json {
        for alert in &alerts {
            let json = serde_json::to_string(alert).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        return Ok(Exit::Done);
    }
    if alerts.is_empty() {
        writeln!(terminal.out, "no alert stands")?;
        return Ok(Exit::Done);
    }
    let row = |alert: &Alert| {
        vec![escaped(&alert.severity), escaped(&alert.rule), alert.since.to_string(), escaped(&alert.text)]
    };
    let rows: Vec<Vec<String>> = alerts.iter().map(row).collect();
    table(terminal.out, &["SEVERITY", "RULE", "SINCE", "WHAT"], &rows)?;
    Ok(Exit::Done)
}

fn test(args: &TestAlertArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let asked = TestAlert { to: args.to.clone() };
    let tested: TestedAlert = Client::new(&instance.socket)?.post("/v1/alerts/test", &asked)?;
    let id = escaped(&tested.id);
    writeln!(terminal.out, "a test is on its way to {}: stagepost show {id}", escaped(&args.to))?;
    Ok(Exit::Done)
}

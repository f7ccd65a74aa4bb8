//! Owns the grammar of the command line (contract, section 5) and its help.

mod rehearse;
mod select;
mod subscriber;
mod tools;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(super) use self::{
    rehearse::RehearseArgs,
    select::{FilterArgs, HoldArgs, ReplayArgs, SelectArgs, Transform, Where},
    subscriber::{
        SubscriberAddArgs, SubscriberArgs, SubscriberNameArgs, SubscriberPauseArgs, SubscriberRotateArgs,
        SubscriberVerb,
    },
    tools::{
        BackupArgs, CompletionsArgs, ExportArgs, ImportArgs, JobArgs, JobsArgs, ManArgs, QueueArgs, ReloadArgs, Shell,
        TopArgs,
    },
};
use super::{audit::AuditArgs, units};

/// A store-and-forward reverse proxy: a 2xx means that the request is on disk.
#[derive(Debug, Parser)]
#[command(name = "stagepost", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Serve
    #[command(after_help = "Examples:
  stagepost run --config /etc/stagepost/stagepost.toml
  stagepost run --listen 127.0.0.1:8080 --to http://127.0.0.1:3000")]
    Run(RunArgs),
    /// Validate the configuration
    #[command(after_help = "Examples:
  stagepost check
  stagepost check --config new.toml --print")]
    Check(CheckArgs),
    /// Apply the configuration now; the exit status tells the truth
    #[command(after_help = "Examples:
  stagepost reload
  stagepost reload --probation 5m

With --probation the configuration before becomes active again by itself if, in that time, the share of refused requests of a
source or of failed attempts of an upstream doubles, grows by 5 points, and is of at least 10. The files are left alone.")]
    Reload(ReloadArgs),
    /// Upstreams, breakers, holds, pending, dead, oldest, disk, how long an outage may last
    #[command(after_help = "Examples:
  stagepost status
  stagepost status --json | jq '.upstreams[] | select(.dead > 0)'")]
    Status(JsonArgs),
    /// Alerts that stand; `test` tries a destination
    #[command(after_help = "Examples:
  stagepost alerts
  stagepost alerts --json
  stagepost alerts test ops

Rules and destinations are in [alerts] of the configuration.")]
    Alerts(AlertsArgs),
    /// Stored events, newest first
    #[command(after_help = "Examples:
  stagepost log
  stagepost log --state dead --upstream billing --since 1d
  stagepost log --source stripe --where '.type == \"invoice.paid\"' --json
  stagepost log -f

--state takes the state of the event or of one of its deliveries; with --upstream, of that delivery.")]
    Log(LogArgs),
    /// One event with every attempt
    #[command(after_help = "Examples:
  stagepost show 01KDYAK3SF0000000000000001
  stagepost show 01KDYAK3SF0000000000000001 --body > body.json
  stagepost show 01KDYAK3SF0000000000000001 --curl --reveal
  stagepost log --state dead --json | stagepost show - --json")]
    Show(ShowArgs),
    /// Why an event is where it is, in sentences
    #[command(after_help = "Examples:
  stagepost explain 01KDYAK3SF0000000000000001
  stagepost log --state dead --json | stagepost explain -")]
    Explain(ExplainArgs),
    /// Make deliveries due again
    #[command(after_help = "Examples:
  stagepost replay 01KDYAK3SF0000000000000001
  stagepost replay --upstream billing --since 2h --dry-run
  stagepost replay --upstream billing --rate 100/s --yes
  stagepost log --json --grep cus_123 | stagepost replay - --to crm

With filters and without --state only dead deliveries are taken. The event id and the idempotency key stay the
same (unless --new-key); routes and transforms are today's, or none with --transform original. More than 1,000 by filter
are a job, which goes on by itself, below live traffic and across restarts: `stagepost jobs`.")]
    Replay(ReplayArgs),
    /// Hold deliveries, or a whole upstream
    #[command(after_help = "Examples:
  stagepost hold --upstream billing --for 10m --reason 'database migration'
  stagepost hold --upstream billing --wait 60s && systemctl restart billing && stagepost release --upstream billing
  stagepost hold --upstream billing --source stripe
  stagepost hold 01KDYAK3SF0000000000000001

--upstream and nothing else holds the upstream: what waits and what will come. With an id or another filter it
selects deliveries that exist now. With --wait the exit status is 0 when no attempt is under way any more, 1 if that took
longer; the hold stays. --reason is no filter here: it is recorded and shown by `status`.")]
    Hold(HoldArgs),
    /// Let held deliveries go, or a whole upstream
    #[command(after_help = "Examples:
  stagepost release --upstream billing --reason 'migration done'
  stagepost release --source stripe
  stagepost release 01KDYAK3SF0000000000000001

--upstream and nothing else releases the upstream: what waits goes on. --reason is no filter here: it is recorded. With the
id of a dead event it lets those go that wait behind it because its key is parked (order_by).")]
    Release(SelectArgs),
    /// Keys whose first delivery keeps others waiting (order_by)
    #[command(after_help = "Examples:
  stagepost keys
  stagepost keys --upstream billing --json

`stagepost replay ID` makes a dead one due again, `stagepost release ID` lets those behind it go.")]
    Keys(KeysArgs),
    /// Take answers for good that wait for a person
    #[command(after_help = "Examples:
  stagepost resolve 01KDYAK3SF0000000000000001
  stagepost resolve --upstream billing --since 1d --reason 'checked by hand'

Takes deliveries in review only; they count as delivered. --reason is no filter here: it is recorded. To send them again,
use `stagepost replay --state review`.")]
    Resolve(SelectArgs),
    /// Give deliveries up that wait or are held
    #[command(after_help = "Examples:
  stagepost expire 01KDYAK3SF0000000000000001
  stagepost expire --upstream billing --until 2d --reason 'too old to matter' --yes

They are dead then, with the reason `operator`; `stagepost replay` makes them due again. --reason is no filter here: it is
recorded.")]
    Expire(SelectArgs),
    /// Try deliveries again now that wait for a later attempt
    #[command(after_help = "Examples:
  stagepost requeue --upstream billing
  stagepost requeue 01KDYAK3SF0000000000000001

Takes pending deliveries that were tried before. Unlike a replay it begins nothing anew: attempts, time until giving up
and idempotency key go on.")]
    Requeue(SelectArgs),
    /// Replays of many deliveries that are under way
    #[command(after_help = "Examples:
  stagepost jobs
  stagepost jobs --all --json")]
    Jobs(JobsArgs),
    /// One job: what it does, how far it is, what it waits for
    #[command(after_help = "Examples:
  stagepost job j1048612")]
    Job(JobArgs),
    /// End a job; what it made due stays due
    #[command(after_help = "Examples:
  stagepost cancel j1048612")]
    Cancel(JobArgs),
    /// Hide events at once; their bytes go with their segment
    #[command(after_help = "Examples:
  stagepost delete 01KDYAK3SF0000000000000001
  stagepost delete --source test --until 1d --yes")]
    Delete(SelectArgs),
    /// Let an upstream's attempts fail for a time, without touching it
    #[command(after_help = "Examples:
  stagepost rehearse billing --status 500 --for 2m
  stagepost rehearse billing --hang --for 10m
  stagepost rehearse billing --stop

Nothing is sent to the upstream meanwhile, and no delivery dies because of it. It ends by itself, after an hour at most,
or with a restart; the breaker is closed then.")]
    Rehearse(RehearseArgs),
    /// Who gets what is published under a topic: add, list, pause, resume, remove, rotate a secret
    Subscriber(SubscriberArgs),
    /// Take one of several targets of an upstream out: no new attempts, those under way finish
    #[command(after_help = "Examples:
  stagepost drain billing http://10.0.0.2:3000 --reason 'new kernel'
  stagepost drain billing 10.0.0.2:3000
  stagepost undrain billing 10.0.0.2:3000

It stays out through restarts and reloads until `stagepost undrain`; `stagepost status` shows it and the attempts that are
still under way. The last target that works is refused without --force: without any target nothing is sent, and nothing
is given up for that.")]
    Drain(DrainArgs),
    /// Let a drained target of an upstream have attempts again
    #[command(after_help = "Examples:
  stagepost undrain billing http://10.0.0.2:3000")]
    Undrain(UndrainArgs),
    /// Rates, latencies, backlogs and breakers, live
    #[command(after_help = "Examples:
  stagepost top
  stagepost top --every 5s

Keys: q quits; n, r, p, d, o, l sort by name, rate, pending, dead, oldest, latency; s turns the order round.")]
    Top(TopArgs),
    /// What waits, by upstream and age
    #[command(after_help = "Examples:
  stagepost queue
  stagepost queue --state dead
  stagepost queue --json | jq '.rows[] | {upstream, total}'

Columns are ages in minutes since the events were accepted, each up to the number above it. Without --state what is
pending and what is held is counted together.")]
    Queue(QueueArgs),
    /// The last 1,000 refused requests
    #[command(after_help = "Examples:
  stagepost refused
  stagepost refused -f --json")]
    Refused(RefusedArgs),
    /// Refused requests that were kept: list them, judge them again, take them after all
    #[command(after_help = "Examples:
  stagepost quarantine
  stagepost quarantine show 01KDYAK3SFZZZG0000000000M1 --http
  stagepost quarantine recheck --source stripe
  stagepost quarantine recheck --source stripe --since 2h --admit
  stagepost quarantine delete --until 7d --yes")]
    Quarantine(Box<QuarantineArgs>),
    /// What operators did: who, from where, what, why
    #[command(after_help = "Examples:
  stagepost audit
  stagepost audit --since 1d --actor alice
  stagepost audit --action reveal --json

Newest first. The newest 10,000 are kept, whatever becomes of the events that they were about.")]
    Audit(AuditArgs),
    /// Check the stored log; report damage by id
    #[command(after_help = "Examples:
  stagepost verify --data /var/lib/stagepost
  stagepost verify --repair")]
    Verify(VerifyArgs),
    /// Say why the signature of a captured request does not match
    #[command(after_help = "Examples:
  stagepost verify-signature 01KDYAK3SF0000000000000001
  stagepost verify-signature --source stripe request.http
  stagepost show 01KDYAK3SF0000000000000001 --http --reveal | stagepost verify-signature --source stripe -

A file holds a request as `show --http` writes it: request line, headers, an empty line, the body byte for byte.
The exit status is 0 if the request verifies, else 1. Timestamps of files are judged by today's clock or by --at,
those of events by when they came.")]
    VerifySignature(VerifySignatureArgs),
    /// Sign a sample and send it in at the front door
    #[command(after_help = "Examples:
  stagepost send --source stripe
  stagepost send --source github --type issues.opened --body issue.json
  stagepost send --source stripe --bad-signature
  stagepost send --source stripe --to https://hooks.example.com

The exit status is 0 if the answer is the one to be expected: a success, or the refusal that was asked for.")]
    Send(SendArgs),
    /// What a configuration would change for requests that are stored
    #[command(after_help = "Examples:
  stagepost plan
  stagepost plan new.toml -n 5000
  stagepost plan new.toml --source stripe --since 1d --json

Without FILE the instance's own configuration is tried as it stands on disk: what a reload would make active. Each request is
verified, routed and transformed under both configurations; nothing is sent, and nothing becomes active. The instance reads
the file, and has to be able to.")]
    Plan(PlanArgs),
    /// Begin with a provider: configuration, what to do there, and the first event
    #[command(after_help = "Examples:
  stagepost init stripe --to http://127.0.0.1:3000
  stagepost init square --to http://127.0.0.1:3000 --public-url https://hooks.example.com/hooks/square
  stagepost init github --to http://127.0.0.1:3000 --config github.toml --no-wait

Writes a configuration, prints what to do at the provider, and waits for the first event and its delivery.")]
    Init(InitArgs),
    /// How fast this machine's disk makes requests durable
    #[command(after_help = "Examples:
  stagepost bench --dir /var/lib
  stagepost bench --dir /mnt/fast --for 30s --senders 200 --json

Measures in a fresh directory below --dir, with a relay of its own, and removes it. Choose a directory on the disk that is
to hold the log.")]
    Bench(BenchArgs),
    /// Kill a relay under load, again and again, and see whether anything acknowledged is lost
    #[command(after_help = "Examples:
  stagepost torture --dir /var/lib
  stagepost torture --dir /var/lib --kills 1000

Works in a fresh directory below --dir, with a relay of its own. The exit status is 0 if nothing was lost or altered, else
65; the directory is kept then. A kill leaves what was written to the kernel: only cutting the power tests the disk.")]
    Torture(TortureArgs),
    /// Write events with all that is known of them, one JSON object a line, oldest first
    #[command(after_help = "Examples:
  stagepost export > events.ndjson
  stagepost export --source stripe --since 1d --hide-credentials | jq .body
  stagepost export --data /var/lib/stagepost | zstd > events.ndjson.zst

Headers are written as they were received, credentials included: what is written is as secret as the data directory.
Works on the directory of a stopped instance, too.")]
    Export(ExportArgs),
    /// Take exported events in
    #[command(after_help = "Examples:
  stagepost import events.ndjson
  zstd -dc events.ndjson.zst | stagepost import - --data /var/lib/stagepost
  stagepost export --state dead --data old | stagepost import - --deliver

Time of receipt, source, headers and body stay; the id is new and the old one is kept beside it. What is stored already is
not stored again, so that an import can be repeated. Nothing is delivered unless --deliver is given; `stagepost replay`
does it later. Works on the directory of a stopped instance, too.")]
    Import(ImportArgs),
    /// Copy the data of a running instance, consistently
    #[command(after_help = "Examples:
  stagepost backup /backup/stagepost
  stagepost backup /var/lib/stagepost-backup && rsync -a /var/lib/stagepost-backup/ backup:/stagepost/

The directory is a data directory: `stagepost verify --data DIR` checks it, and an instance starts on a copy of it. A
second backup to the same place takes what is new. Needs to read the data directory: run it as the user of the service.")]
    Backup(BackupArgs),
    /// Completions for a shell
    #[command(after_help = "Examples:
  stagepost completions bash > /usr/share/bash-completion/completions/stagepost
  stagepost completions zsh > /usr/share/zsh/vendor-completions/_stagepost
  stagepost completions fish > ~/.config/fish/completions/stagepost.fish")]
    Completions(CompletionsArgs),
    /// Manual pages
    #[command(after_help = "Examples:
  stagepost man | man -l -
  stagepost man /usr/local/share/man/man1

With a directory, one page for each command is written there; without one, the page of the program goes to standard
output.")]
    Man(ManArgs),
}

/// `stagepost run`.
#[derive(Clone, Debug, Default, Args, PartialEq, Eq)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "to", "data"])]
    pub config: Option<PathBuf>,
    /// Listen here, without a configuration file
    #[arg(long, value_name = "ADDR", requires = "to")]
    pub listen: Option<String>,
    /// Forward everything there
    #[arg(long, value_name = "URL", requires = "listen")]
    pub to: Option<String>,
    /// Where to store it [default: ./stagepost-data]
    #[arg(long, value_name = "DIR", requires = "listen")]
    pub data: Option<PathBuf>,
    /// Reload when a file of the configuration changes
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Show the effective configuration and each retry timetable
    #[arg(long)]
    pub(super) print: bool,
}

#[derive(Debug, Args)]
pub(super) struct JsonArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// `alerts` alone lists.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AlertsArgs {
    #[command(subcommand)]
    pub(super) verb: Option<AlertsVerb>,
    #[command(flatten)]
    pub(super) list: JsonArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum AlertsVerb {
    /// What stands, the worst first
    #[command(after_help = "Examples:
  stagepost alerts list --json")]
    List(JsonArgs),
    /// Send a test to one destination
    #[command(after_help = "Examples:
  stagepost alerts test ops")]
    Test(TestAlertArgs),
}

#[derive(Debug, Args)]
pub(super) struct TestAlertArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// The destination: NAME of [alerts.to.NAME]
    #[arg(value_name = "NAME")]
    pub(super) to: String,
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    pub(super) place: Where,
    #[command(flatten)]
    pub(super) filters: FilterArgs,
    /// How many
    #[arg(short = 'n', value_name = "N", default_value_t = 20, help_heading = "Options")]
    pub(super) count: u64,
    /// Go on with what comes, oldest first
    #[arg(short, long, help_heading = "Options")]
    pub(super) follow: bool,
    /// One JSON object a line
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) place: Where,
    #[command(flatten)]
    pub(super) filters: FilterArgs,
    /// The configuration that is tried
    #[arg(value_name = "FILE", help_heading = "Options")]
    pub(super) file: Option<PathBuf>,
    /// How many of the newest requests
    #[arg(short = 'n', value_name = "N", default_value_t = 1000, help_heading = "Options")]
    pub(super) count: u64,
    /// One JSON object a line
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// The event; - reads ids from standard input
    pub(super) id: String,
    /// The body as it was received, and nothing else
    #[arg(long, group = "form")]
    pub(super) body: bool,
    /// One JSON object
    #[arg(long, group = "form")]
    pub(super) json: bool,
    /// The request as HTTP/1.1
    #[arg(long, group = "form")]
    pub(super) http: bool,
    /// The request as a command for curl
    #[arg(long, group = "form")]
    pub(super) curl: bool,
    /// Show credentials
    #[arg(long)]
    pub(super) reveal: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// The event; - reads ids from standard input
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// Of this upstream only
    #[arg(long, value_name = "NAME")]
    pub(super) upstream: Option<String>,
    /// One JSON object a line
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    pub(super) target: UndrainArgs,
    /// Why; recorded and shown by `status`
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Even if no other target works
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// The upstream
    pub(super) upstream: String,
    /// The target: its url, or its host and port
    #[arg(value_name = "TARGET")]
    pub(super) url: String,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RefusedArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// Go on with what comes
    #[arg(short, long)]
    pub(super) follow: bool,
    /// One JSON object a line
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// Repair what can be repaired
    #[arg(long)]
    pub(super) repair: bool,
    /// One JSON object
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

/// `quarantine` alone lists.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    pub(super) verb: Option<QuarantineVerb>,
    #[command(flatten)]
    pub(super) list: QuarantineListArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineVerb {
    /// What is kept, newest first
    #[command(after_help = "Examples:
  stagepost quarantine list --source stripe --since 1h")]
    List(QuarantineListArgs),
    /// One request as it was received
    #[command(after_help = "Examples:
  stagepost quarantine show 01KDYAK3SFZZZG0000000000M1 --http")]
    Show(ShowArgs),
    /// What today's secrets and routes say; --admit takes those that pass
    #[command(after_help = "Examples:
  stagepost quarantine recheck
  stagepost quarantine recheck --source stripe --admit

A timestamp is compared with the time of receipt. What is admitted becomes an event with its original time of receipt,
unless its source knows it already, and leaves the quarantine.")]
    Recheck(RecheckArgs),
    /// Remove requests for good
    #[command(after_help = "Examples:
  stagepost quarantine delete --until 7d --yes")]
    Delete(SelectArgs),
}

#[derive(Debug, Args)]
pub(super) struct QuarantineListArgs {
    #[command(flatten)]
    pub(super) place: Where,
    #[command(flatten)]
    pub(super) filters: FilterArgs,
    /// How many
    #[arg(short = 'n', value_name = "N", default_value_t = 20, help_heading = "Options")]
    pub(super) count: u64,
    /// One JSON object a line
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RecheckArgs {
    #[command(flatten)]
    pub(super) select: SelectArgs,
    /// Take those that pass into the log
    #[arg(long, help_heading = "Options")]
    pub(super) admit: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifySignatureArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// The source that should take it [default: the event's own]
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// A file, an event, a request in quarantine, or - for standard input
    #[arg(value_name = "FILE|ID")]
    pub(super) request: String,
    /// Judge timestamps by this time: RFC 3339 with zone, or 10m ago
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The source that is to take it
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,
    /// The event type
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) kind: Option<String>,
    /// Send this file in place of the sample; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) body: Option<PathBuf>,
    /// Spoil the signature
    #[arg(long, group = "fault")]
    pub(super) bad_signature: bool,
    /// Sign as if it were long ago
    #[arg(long, group = "fault")]
    pub(super) stale: bool,
    /// Send it twice
    #[arg(long, group = "fault")]
    pub(super) duplicate: bool,
    /// Send it there: http://HOST:PORT, https://HOST:PORT or unix:PATH [default: the first listener]
    #[arg(long, value_name = "URL")]
    pub(super) to: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The provider, as verify.scheme calls it
    pub(super) preset: String,
    /// Forward its events there
    #[arg(long, value_name = "URL")]
    pub(super) to: String,
    /// Take them at this path [default: /hooks/PRESET]
    #[arg(long, value_name = "PATH")]
    pub(super) path: Option<String>,
    /// The whole URL as it will be registered with the provider
    #[arg(long, value_name = "URL")]
    pub(super) public_url: Option<String>,
    /// Write this file
    #[arg(long, value_name = "FILE", default_value = "stagepost.toml")]
    pub(super) config: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(super) force: bool,
    /// Do not wait for the first event
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Where to make a fresh directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// How long each load lasts
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = units::duration_ms)]
    pub(super) for_ms: u64,
    /// Senders at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) senders: u16,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TortureArgs {
    /// Where to make a fresh directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) kills: u64,
    /// Repeats the bodies and moments of an earlier run, as far as the machine's timing lets it
    #[arg(long, value_name = "NUMBER")]
    pub(super) seed: Option<u64>,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}
